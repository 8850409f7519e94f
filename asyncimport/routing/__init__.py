"""From a DICOM header and a path to project, subject and session label. Pure: no disk and no network.

`Router.route` decides file by file, and remembers no other file. The journal finds conflicts between files, such as one
label for two studies.

Two fields belong to whole studies. `{Modality}` is the one by which XNAT names a session: PT comes before MR, MR before
CT; reports and presentation states count only if there is nothing else. `{StudyIndex}` counts the studies of a subject
by date and time. A router with `whole_studies` offers them. If a template has one (`Router.needs_whole_study`), route
in two steps:

    whole: dict[str, Study] = {}
    for each file:
        study = router.study(study_uid, fields, path)            # raises only for a path that does not match
        whole[study_uid] = whole[study_uid].merge(study) if study_uid in whole else study
    sessions = router.resolve(whole.values())                    # StudyInstanceUID -> Session or UnroutableError

`resolve` works with any templates, and only it finds out that the files of a study differ in a field that decides.
"""
