"""The XNAT client: login, images, archive, site. The only package that speaks HTTP."""
