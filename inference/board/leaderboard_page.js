"use strict";
// The leaderboard's table: drawn, sorted and filtered from the JSON in the page. Text goes into text nodes only.
// What is chosen stands in the address, so that a view can be sent to others.
// Without prototypes: a set that is called "constructor" is there only where a row has it.
const bare = (name, value) => value && typeof value === "object" && !Array.isArray(value) ? Object.assign(Object.create(null), value) : value;
const { rows, boards, average } = JSON.parse(document.getElementById("data").textContent, bare);
const at = (id) => document.getElementById(id);
const table = document.querySelector("#board table");
const defaults = { view: boards.length ? boards[0].id : "", metric: "", column: "", size: "", group: "", source: "", q: "", sort: "", up: "" };
const state = { ...defaults };

function make(tag, content, name) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  for (const part of [].concat(content ?? [])) element.append(part);
  return element;
}

function isolated(text, name) {
  const element = make("bdi", text, name);  // a right-to-left name turns nothing around it
  element.dir = "auto";
  return element;
}

const view = () => boards.find((board) => board.id === state.view) || boards[0];
const metric = () => view().metrics.find((of) => of.metric === state.metric) || view().metrics[0];
const scoresOf = (row) => ((row.scores[view().board] || {})[metric().metric] || {});
const columns = () => metric().columns;
// The column with bars: the language or set that was chosen, else the average, else the first.
const mainColumn = () => columns().includes(state.column) ? state.column : columns()[0];
const byLanguage = () => view().board === "mmedbench";

function isSize(row) {
  if (!state.size) return true;
  if (state.size === "none") return row.billions === null;
  const [low, high] = state.size.split("-").map(Number);
  return row.billions !== null && row.billions >= low && row.billions < high;
}

function shownRows() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter((row) => {
    const scores = scoresOf(row);
    const there = state.column && columns().includes(state.column) ? scores[state.column] : Object.keys(scores).length;
    const text = `${row.model} ${row.size} ${row.setting} ${row.data}`.toLowerCase();
    return there && isSize(row) && (!state.group || row.group === state.group)
      && (!state.source || row.ours === (state.source === "ours")) && words.every((word) => text.includes(word));
  });
}

const about = {
  __proto__: null,
  model: { name: "Model", key: (row) => row.model.toLowerCase() },
  size: { name: "Size", key: (row) => row.billions },
  setting: { name: "Setting", key: (row) => row.group },
  data: { name: "Data", key: (row) => row.data.toLowerCase() },
};

function sortedRows(found) {
  const sort = state.sort in about || columns().includes(state.sort) ? state.sort : mainColumn();
  const up = state.sort ? state.up === "1" : false;
  const key = sort in about ? about[sort].key : (row) => (scoresOf(row)[sort] || [null])[0];
  const order = found.map((row, number) => [key(row), number, row]);
  order.sort(([a, i], [b, j]) => {
    if (a === null || b === null) return (a === null) - (b === null) || i - j;  // what is missing stays below
    const difference = a < b ? -1 : a > b ? 1 : 0;
    return (up ? difference : -difference) || i - j;
  });
  return { sort, up, found: order.map((of) => of[2]) };
}

const percent = (value, digits) => value.toFixed(digits);

function bar(score) {
  if (!score) return make("td", "–", "main soft");
  const [value, low, high] = score;
  const fill = make("span", [], "fill");
  fill.style.width = `${value}%`;
  const track = make("span", [fill], "track");
  const label = make("span", percent(value, 2), "value");
  const cell = make("td", make("div", [track, label], "bar"), "main");
  if (low !== null && high !== null) {
    const interval = make("span", [], "interval");
    interval.style.left = `${low}%`;
    interval.style.width = `${high - low}%`;
    track.append(interval);
    cell.title = `95 % interval ${percent(low, 1)} to ${percent(high, 1)}`;
    cell.append(make("small", `${percent(low, 1)} to ${percent(high, 1)}`, "soft"));
  }
  return cell;
}

function plainCell(score) {
  if (!score) return make("td", "–", "n soft");
  const cell = make("td", percent(score[0], 1), "n");
  if (score[1] !== null) cell.title = `95 % interval ${percent(score[1], 1)} to ${percent(score[2], 1)}`;
  return cell;
}

function drawRow(row, rank, others) {
  const head = make("th", isolated(row.model, "name"));
  head.scope = "row";
  if (row.ours) head.append(" ", make("span", "measured here", "ours"));
  if (row.released) head.append(make("small", ` ${row.released}`, "soft"));
  if (row.notes.length) {
    head.append(make("details", [make("summary", "notes"), ...row.notes.map((note) => make("p", isolated(note)))], "note"));
  }
  const scores = scoresOf(row);
  const setting = make("td", [], "about");
  if (!row.setting.startsWith(row.group)) setting.append(row.group, make("br"));
  setting.append(make("small", isolated(row.setting)));
  return make("tr", [
    make("td", String(rank), "n rank"), head, bar(scores[mainColumn()]), ...others.map((name) => plainCell(scores[name])),
    make("td", row.size || "–", "n size"), setting, make("td", make("small", isolated(row.data)), "about"),
  ]);
}

function heading(id, text, name, sort, up) {
  const button = make("button", text);
  button.type = "button";
  button.dataset.sort = id;
  const cell = make("th", button, name);
  cell.scope = "col";
  if (sort === id) cell.setAttribute("aria-sort", up ? "ascending" : "descending");
  return cell;
}

function choices(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => {
    const option = make("option", text);
    option.value = value;
    return option;
  }));
  select.value = options.some(([value]) => value === chosen) ? chosen : options[0][0];
}

function drawControls() {
  for (const input of document.querySelectorAll("input[name=view]")) input.checked = input.value === view().id;
  at("metric-label").hidden = view().metrics.length < 2;
  choices(at("metric"), view().metrics.map((of) => [of.metric, of.name]), metric().metric);
  at("column-label").textContent = byLanguage() ? "Language" : "Question set";
  const rest = columns().filter((name) => name !== average);
  choices(at("column"), [["", byLanguage() ? "all, average" : "all"], ...rest.map((name) => [name, name])], state.column);
  for (const id of ["size", "group", "source"]) at(id).value = state[id];
  if (at("search").value !== state.q) at("search").value = state.q;
}

// What fits on a screen stands at once; the rest of a long table follows after the first picture.
const AT_ONCE = 100;
let following = 0;

function drawRows(found, others) {
  const drawn = (from, to) => found.slice(from, to).map((row, number) => drawRow(row, from + number + 1, others));
  const body = table.tBodies[0], mine = ++following;
  body.replaceChildren(...drawn(0, AT_ONCE));
  if (found.length <= AT_ONCE) return;
  requestAnimationFrame(() => setTimeout(() => {
    if (mine === following) body.append(...drawn(AT_ONCE));
  }));
}

function draw() {
  if (!boards.length) return;
  drawControls();
  const main = mainColumn();
  const others = columns().includes(state.column) ? [] : columns().filter((name) => name !== main);
  const { sort, up, found } = sortedRows(shownRows());
  table.className = others.length ? "" : "single";
  const focused = document.activeElement && document.activeElement.dataset.sort;
  const corner = make("th", "#", "n rank");
  corner.scope = "col";
  table.tHead.replaceChildren(make("tr", [
    corner, heading("model", "Model", "model", sort, up), heading(main, isolated(main), "", sort, up),
    ...others.map((name) => heading(name, isolated(name), "n", sort, up)),
    ...["size", "setting", "data"].map((id) => heading(id, about[id].name, id === "size" ? "n" : "", sort, up)),
  ]));
  drawRows(found, others);
  const shown = view().metrics.length > 1 ? `: ${metric().name}` : "";
  at("status").textContent = `${found.length} of ${rows.length} rows. ${view().about}${shown}; `
    + `by ${sort in about ? about[sort].name.toLowerCase() : sort}, ${up ? "lowest" : "highest"} first.`;
  if (focused) {
    const again = [...table.tHead.querySelectorAll("button")].find((button) => button.dataset.sort === focused);
    if (again) again.focus();
  }
  const chosen = Object.entries(state).filter(([name, value]) => value && value !== defaults[name]);
  const hash = new URLSearchParams(chosen).toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
}

function change(changes) {
  Object.assign(state, changes);
  draw();
}

function readAddress() {
  Object.assign(state, defaults);
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name in defaults) state[name] = value;
  }
  draw();
}

table.tHead.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const id = button.dataset.sort;
  const sort = button.parentElement.getAttribute("aria-sort");
  // Scores begin with the highest, names with the first letter.
  change({ sort: id, up: sort ? (sort === "ascending" ? "" : "1") : id in about ? "1" : "" });
});
for (const input of document.querySelectorAll("input[name=view]")) {
  input.addEventListener("change", () => change({ view: input.value, metric: "", column: "", sort: "", up: "" }));
}
at("metric").addEventListener("change", () => change({ metric: at("metric").value }));
at("column").addEventListener("change", () => change({ column: at("column").value, sort: "", up: "" }));
for (const id of ["size", "group", "source"]) at(id).addEventListener("change", () => change({ [id]: at(id).value }));
at("search").addEventListener("input", () => change({ q: at("search").value }));
at("reset").addEventListener("click", () => change({ column: "", size: "", group: "", source: "", q: "", sort: "", up: "" }));
addEventListener("hashchange", readAddress);
at("board").hidden = false;
readAddress();
