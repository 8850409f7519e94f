"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const number = new Intl.NumberFormat("en");
const bytes = (size) => {
  if (size == null) return "–";
  let unit = 0;
  while (size >= 999.95 && unit < 4) { size /= 1000; unit += 1; }
  return (unit ? size.toFixed(1) : Math.round(size)) + " " + ["B", "kB", "MB", "GB", "TB"][unit];
};

// ---- The table. A row is an array: see `session_data` in render.py.
const LINK = 13, PAGE = 100, MOST_PRINTED = 2000;
const columns = [
  { name: "Session", at: 1, wide: true }, { name: "Subject", at: 2 }, { name: "Project", at: 3 },
  { name: "Date", at: 4, keep: true }, { name: "Modality", at: 5 }, { name: "Scans", at: 6, number: true },
  { name: "Files", at: 7, number: true }, { name: "Size", at: 8, number: true, show: bytes },
  { name: "State", at: 9 }, { name: "Verified", at: 10 }, { name: "Reason", at: 11, wide: true },
  { name: "Study", at: 12, wide: true },
];
const rows = [], found = new Map(), texts = new Map();
let view = [], page = 0, order = null, falling = false, perPage = PAGE;
// Numbers in texts are sorted as numbers. A key for each text is ten times as fast as a collator.
const key = (value) => {
  const plain = /^[\x20-\x7e]*$/.test(value) ? value : value.normalize("NFKD").replace(/\p{M}/gu, "");
  return plain.toLowerCase().replace(/\d+/g, (digits) => digits.padStart(20, "0"));
};
const linkOf = (row) => row[LINK] !== 1 ? row[LINK]
  : `${data.host}/data/archive/projects/${row[3]}/subjects/${row[2]}/experiments/${row[1]}?format=html`;

const take = (row) => {
  const place = found.get(row[0]);
  texts.delete(row[0]);
  if (place === undefined) { found.set(row[0], rows.length); rows.push(row); } else rows[place] = row;
};
const text = (row) => {
  let known = texts.get(row[0]);
  if (known === undefined) {
    known = columns.map((one) => row[one.at]).join("\n").toLowerCase();
    texts.set(row[0], known);
  }
  return known;
};
const element = (name, content, className) => {
  const made = document.createElement(name);
  if (content != null) made.textContent = content;
  if (className) made.className = className;
  return made;
};

const select = () => {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean), state = $("state").value;
  view = rows.filter((row) => (!state || row[9] === state) && (!words.length || words.every((word) => text(row).includes(word))));
  if (order) {
    const at = order.at, sign = falling ? -1 : 1;
    const keys = view.map((row) => order.number ? row[at] ?? -1 : key(row[at]));
    const places = Uint32Array.from(view, (_, place) => place);
    places.sort((a, b) => keys[a] < keys[b] ? -sign : keys[a] > keys[b] ? sign : a - b);
    view = Array.from(places, (place) => view[place]);
  }
};

let drawn = "";
const draw = () => {
  const last = Math.max(0, Math.ceil(view.length / perPage) - 1);
  page = Math.min(page, last);
  const visible = view.slice(page * perPage, (page + 1) * perPage);
  $("count").textContent = view.length === rows.length ? `${number.format(rows.length)} ${rows.length === 1 ? "session" : "sessions"}`
    : `${number.format(view.length)} of ${number.format(rows.length)} sessions`;
  $("place").textContent = `Page ${number.format(page + 1)} of ${number.format(last + 1)}`;
  document.querySelector(".pager").hidden = last === 0;
  $("previous").disabled = page === 0;
  $("next").disabled = page === last;
  // What is as before stays, and with it focus and selection.
  const now = JSON.stringify([visible, shownColumns.map((one) => one.at)]);
  if (now === drawn) return;
  drawn = now;
  const body = document.createDocumentFragment();
  for (const row of visible) {
    const line = element("tr");
    for (const one of shownColumns) {
      const value = row[one.at];
      const cell = element("td", null, one.number ? "number" : one.keep ? "keep" : one.wide && value ? "wide" : "");
      cell.dataset.name = one.name;
      if (value == null || value === "") cell.classList.add("empty");
      let inner = element("bdi", one.number ? (value == null ? "" : (one.show || number.format)(value)) : value);
      if (one.at === 9) inner.className = "state " + (data.tones[row[9]] || "");
      if (one.at === 12) { const code = element("code"); code.append(inner); inner = code; }
      if (one.at === 1 && linkOf(row)) {
        const link = element("a");
        link.href = linkOf(row);
        link.rel = "noreferrer noopener";
        link.target = "_blank";
        link.append(inner);
        inner = link;
      }
      cell.append(inner);
      line.append(cell);
    }
    body.append(line);
  }
  $("table").tBodies[0].replaceChildren(body);
};

let shownColumns = columns, headed = "";
const refresh = () => { select(); draw(); };
const head = () => {
  // A column that is empty for all sessions says nothing.
  shownColumns = columns.filter((one) => [1, 9].includes(one.at) || rows.some((row) => row[one.at] != null && row[one.at] !== ""));
  const states = [...new Set(rows.map((row) => row[9]))].sort(), choice = $("state");
  const now = JSON.stringify([shownColumns.map((one) => one.at), order && order.at, falling, states]);
  if (now === headed) return;
  headed = now;
  const line = $("table").tHead.rows[0];
  line.replaceChildren(...shownColumns.map((one) => {
    const cell = element("th", null, one.number ? "number" : "");
    cell.scope = "col";
    if (one === order) cell.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const button = element("button", one.name);
    button.type = "button";
    button.addEventListener("click", () => sort(one, one === order && !falling));
    cell.append(button);
    return cell;
  }));
  const chosen = choice.value;
  choice.replaceChildren(new Option("all", ""), ...states.map((state) => new Option(state, state)));
  choice.value = states.includes(chosen) ? chosen : "";
};
const sort = (one, isFalling) => {
  order = one; falling = isFalling; page = 0;
  head(); refresh();
  $("sort").value = String(one.at);
  const at = shownColumns.indexOf(one);
  if (document.activeElement === document.body) $("table").tHead.rows[0].cells[at]?.firstChild.focus();
};
// On a narrow screen the rows are cards, and this takes the place of the head.
const sorting = element("label", "Sort by ", "sorting"), by = element("select");
by.id = "sort";
by.append(new Option("as found", ""), ...columns.map((one) => new Option(one.name, one.at)));
by.addEventListener("change", () => {
  const one = columns.find((column) => String(column.at) === by.value);
  if (one) sort(one, Boolean(one.number)); else { order = null; head(); refresh(); }
});
sorting.append(by);
$("count").before(sorting);
$("search").addEventListener("input", () => { page = 0; refresh(); });
$("state").addEventListener("change", () => { page = 0; refresh(); });
$("previous").addEventListener("click", () => { page -= 1; draw(); });
$("next").addEventListener("click", () => { page += 1; draw(); });
addEventListener("beforeprint", () => {
  page = 0; perPage = MOST_PRINTED;
  draw(); theme();
  $("printed").hidden = view.length <= MOST_PRINTED;
  $("printed").textContent = `The first ${number.format(MOST_PRINTED)} of ${number.format(view.length)} sessions; -o csv has all.`;
});
addEventListener("afterprint", () => { perPage = PAGE; draw(); theme(); $("printed").hidden = true; });

// ---- The charts.
const plots = [];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const seconds = (value) => value == null ? "–" : value < 1 ? Math.round(value * 1000) + " ms" : value.toFixed(1) + " s";
const whole = (value) => value == null ? "–" : number.format(value);
const CHARTS = [
  { id: "throughput", of: [["bytes a second", "bytes", (value) => value == null ? "–" : bytes(value) + "/s"]] },
  { id: "rate", of: [["files a second", "files", (value) => value == null ? "–" : number.format(Math.round(value * 10) / 10)]] },
  { id: "flight", of: [["in flight", "in_flight", whole], ["limit", "allowed", whole]] },
  { id: "latency", of: [["mean", "mean", seconds], ["slowest", "slowest", seconds]] },
];
// Times are UTC, as in the rest of the page.
const utc = (time) => new Date(time * 1000).toISOString();
const times = (_, splits, __, ___, step) => splits.map((time, place) => {
  const clock = utc(time).slice(11, step < 60 ? 19 : 16), day = utc(time).slice(0, 10);
  return step >= 86400 ? day : place && utc(splits[place - 1]).slice(0, 10) === day ? clock : clock + "\n" + day;
});
const plot = (chart) => {
  const place = $(chart.id), axis = (more) => ({ stroke: () => colour("--soft"), font: "12px system-ui, sans-serif",
    grid: { stroke: () => colour("--line"), width: 1 }, ticks: { stroke: () => colour("--line"), width: 1 }, ...more });
  const scales = { x: { time: true }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.05 : 1] } };
  const series = [{ label: "time", value: (_, time) => time == null ? "–" : utc(time).slice(0, 19).replace("T", " ") }];
  const show = chart.of[0][2], axes = [axis({ values: times, space: 70 }), axis({ size: 84, values: (_, values) => values.map(show) })];
  chart.of.forEach(([label, , show], nth) => {
    series.push({ label, stroke: () => colour(nth ? "--two" : "--one"), width: 2, dash: nth ? [5, 4] : undefined,
      spanGaps: false, value: (_, value) => show(value), points: { show: data.charts.time.length < 3 } });
  });
  const made = new uPlot({ width: place.clientWidth || 400, height: 200, scales, series, axes, tzDate: (time) => uPlot.tzDate(new Date(time * 1000), "Etc/UTC"), cursor: { drag: { x: true, y: false } } },
    [data.charts.time, ...chart.of.map(([, name]) => data.charts[name])], place);
  plots.push([chart, made, place]);
};
const describe = () => {
  for (const [chart, , place] of plots) {
    const parts = chart.of.map(([label, name, show]) => {
      const known = data.charts[name].filter((value) => value != null);
      return known.length ? `${label}: at most ${show(known.reduce((a, b) => Math.max(a, b)))}` : `${label}: unknown`;
    });
    place.setAttribute("aria-label", `${place.previousElementSibling.textContent} over time; ${parts.join("; ")}`);
  }
};
const chart = () => {
  if (!data.charts.time.length) return;
  $("charts").hidden = false;
  if (!plots.length) CHARTS.forEach(plot);
  else for (const [one, made] of plots) made.setData([data.charts.time, ...one.of.map(([, name]) => data.charts[name])]);
  describe();
};
const theme = () => { for (const [, made] of plots) made.redraw(false, true); };
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme);
new ResizeObserver(() => { for (const [, made, place] of plots) made.setSize({ width: place.clientWidth, height: 200 }); }).observe(document.body);

data.rows.forEach(take);
head(); refresh(); chart();

// ---- A live page: the server pushes what has changed.
if (data.live) {
  const source = new EventSource("events?since=" + data.changes), shown = {};
  const say = (words, tone) => {
    const status = document.querySelector(".status");
    status.textContent = words;
    status.className = "status " + tone;
    delete shown.head;
  };
  source.addEventListener("message", (event) => {
    const update = JSON.parse(event.data);
    for (const [id, html] of Object.entries(update.parts)) {
      if (shown[id] !== html) $(id).innerHTML = shown[id] = html;
    }
    if (update.rows.length) {
      update.rows.forEach(take);
      head(); refresh();
    }
    data.charts = update.charts;
    chart();
  });
  source.addEventListener("end", () => source.close());
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) say("This page has lost the run: it has ended, or was stopped", "warning");
    else say("The connection to the run is broken; trying again", "warning");
  });
}
})();
