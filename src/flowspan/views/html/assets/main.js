// Handle keys, pointer and buttons.

const NARROWEST = 20; // nanoseconds; nothing is visible in less

function zoom(factor, around = (view.from + view.to) / 2) {
  const size = Math.min(whole[1] - whole[0], Math.max(NARROWEST, (view.to - view.from) * factor));
  const share = (around - view.from) / (view.to - view.from);
  show(around - share * size, around + (1 - share) * size);
}

// Show a stretch of time, moved to lie within the whole.
function show(from, to) {
  const size = Math.min(whole[1] - whole[0], Math.max(NARROWEST, to - from));
  view.from = Math.min(Math.max(from, whole[0]), whole[1] - size);
  view.to = view.from + size;
  const map = byId("minimap");
  map.setAttribute("aria-valuenow", String(Math.round(((view.from - whole[0]) / (whole[1] - whole[0])) * 100)));
  map.setAttribute("aria-valuetext", `${stopwatch(view.from)} to ${stopwatch(view.to)}`);
  refresh();
}

const pan = (share) => {
  const by = (view.to - view.from) * share;
  show(view.from + by, view.to + by);
};

function say(words) {
  byId("said").textContent = words;
}

// Lay out changed rows again, and keep the focused row in view.
function rearrange() {
  arrange();
  if (placeOf[view.focus] < 0) view.focus = view.lanes ? (lanes[0]?.rows[0] ?? 0) : (shown[0] ?? 0);
  if (!view.lanes) view.focus = Math.max(0, standIn(view.focus));
  for (const [id, on] of [["as-tree", !view.lanes], ["as-lanes", view.lanes], ["path-only", view.pathOnly]]) {
    byId(id).setAttribute("aria-pressed", String(on));
  }
  for (const button of byId("folding").children) button.disabled = view.lanes;
  rowsBox.setAttribute("aria-label", view.lanes ? "Workers" : "Spans");
  byId("name-head").textContent = view.lanes ? "Worker" : "Span";
  byId("time-head").textContent = view.lanes ? "Busy" : "Duration";
  byId("path-head").hidden = view.lanes;
  measure();
  toSight(placeOf[view.focus]);
  refresh();
}

function toSight(place) {
  if (place < 0) return;
  if (place * ROW < scroller.scrollTop) scroller.scrollTop = place * ROW;
  else if ((place + 1) * ROW > scroller.scrollTop + tall) scroller.scrollTop = (place + 1) * ROW - tall;
}

function focusOn(row) {
  view.focus = row;
  toSight(placeOf[row]);
  if (!byId("details").hidden) openDetails(row);
  refresh();
}

// Go to a span, even if it is hidden.
function goTo(row, withDetails = false) {
  reveal(row);
  rearrange();
  view.focus = row;
  if (start[row] > view.to || end[row] < view.from) {
    const middle = (start[row] + end[row]) / 2;
    const size = Math.max(view.to - view.from, (end[row] - start[row]) * 1.2);
    show(middle - size / 2, middle + size / 2);
  }
  scroller.scrollTop = Math.max(0, placeOf[row] * ROW - tall / 2);
  if (withDetails || !byId("details").hidden) openDetails(row);
  refresh();
}

function setLanes(on) {
  view.lanes = on;
  scroller.scrollTop = 0;
  rearrange();
  say(on ? `${length()} rows of workers` : `${length()} rows of spans`);
}

function setPathOnly(on) {
  view.pathOnly = on;
  rearrange();
  say(on ? `${length()} rows on the critical path` : `all ${length()} rows`);
}

function fold(row, on) {
  folded[row] = on ? 1 : 0;
  rearrange();
}

function foldAll(on) {
  for (let row = 0; row < count; row += 1) folded[row] = on && hasChildren(row) && depth[row] > 0 ? 1 : 0;
  rearrange();
}

function search() {
  const wanted = byId("search").value.trim();
  view.hits = wanted ? find(wanted) : [];
  view.hit = view.hits.length ? 0 : -1;
  hitRows = new Set(view.hits);
  if (view.hits.length) goTo(view.hits[0]);
  tellHits(wanted);
  refresh();
}

function step(by) {
  if (!view.hits.length) return;
  view.hit = (view.hit + by + view.hits.length) % view.hits.length;
  goTo(view.hits[view.hit]);
  tellHits(byId("search").value.trim());
}

function tellHits(wanted) {
  byId("hits").textContent = !wanted ? "" : view.hits.length ? `${grouped(view.hit + 1)} of ${grouped(view.hits.length)}` : "none";
  const now = view.hits[view.hit];
  if (wanted) say(now === undefined ? `nothing holds ${wanted}` : `hit ${view.hit + 1} of ${view.hits.length}: ${nameOf(now)} ${runNameOf(now)}`);
  for (const id of ["previous", "next"]) byId(id).disabled = !view.hits.length;
}

function searchFor(name) {
  byId("search").value = name;
  search();
  byId("frame").scrollIntoView({ block: "nearest" });
}

const THEMES = ["", "light", "dark"];
const THEME_WORDS = { "": "as in the system", light: "light", dark: "dark" };
function nextTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? "";
  // From the system's theme, switch to the opposite one first.
  const turns = dark ? ["", "light", "dark"] : ["", "dark", "light"];
  setTheme(turns[(turns.indexOf(now) + 1) % THEMES.length]);
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").setAttribute("aria-label", `Colours: ${THEME_WORDS[name]}`);
  say(`colours ${THEME_WORDS[name]}`);
  measure();
  refresh();
}

const KEYS_TOLD = [
  ["↑ ↓, Home End, PgUp PgDn", "move through the rows"],
  ["→, ←", "unfold or fold a row; among lanes, move through its spans"],
  ["Enter", "open the details of a span"],
  ["Esc", "close the details, leave the search"],
  ["+ −, Ctrl+wheel", "zoom"],
  ["Shift+← →, drag, Shift+wheel", "pan in time"],
  ["0", "show the whole run"],
  ["z, double-click", "zoom to the span"],
  ["/", "search"],
  ["n, N", "next, previous hit"],
  ["p", "only the critical path"],
  ["l", "tree or lanes"],
  ["t", "light or dark"],
  ["?", "these keys"],
];

function openHelp() {
  const help = byId("help");
  help.replaceChildren(
    element("h2", { id: "help-title", text: "Keys" }),
    element("dl", {}, ...KEYS_TOLD.flatMap(([keys, does]) => [element("dt", { text: keys }), element("dd", { text: does })])),
    element("button", { type: "button", text: "Close", onclick: () => help.close() }));
  help.showModal();
}

function zoomTo(row) {
  const first = segments.start[segments.at[row]];
  const size = Math.max(end[row] - first, NARROWEST);
  show(first - size * 0.1, end[row] + size * 0.1);
}

// Handle the keys of the whole page; the rows handle theirs first.
function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input");
  if (event.key === "Escape") {
    if (typing) {
      byId("search").value = "";
      search();
      rowsBox.focus();
    } else if (!byId("details").hidden) closeDetails();
    return;
  }
  if (typing) {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
    return;
  }
  const does = {
    "/": () => byId("search").focus(),
    "+": () => zoom(1 / 1.5),
    "=": () => zoom(1 / 1.5),
    "-": () => zoom(1.5),
    0: () => show(...whole),
    n: () => step(1),
    N: () => step(-1),
    p: () => setPathOnly(!view.pathOnly),
    l: () => setLanes(!view.lanes),
    t: nextTheme,
    z: () => zoomTo(view.focus),
    "?": openHelp,
  }[event.key];
  if (!does || byId("help").open) return;
  event.preventDefault();
  does();
}

function onRowKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const page = Math.max(1, Math.floor(tall / ROW) - 1);
  const place = placeOf[view.focus];
  const moves = { ArrowUp: -1, ArrowDown: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
  if (event.shiftKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    pan(event.key === "ArrowLeft" ? -0.2 : 0.2);
  } else if (event.key in moves) {
    moveTo(Math.min(length() - 1, Math.max(0, place + moves[event.key])));
  } else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
    if (view.lanes) moveInLane(event.key === "ArrowRight" ? 1 : -1);
    else moveInTree(event.key === "ArrowRight");
  } else if (event.key === "Enter" || event.key === " ") {
    openDetails(view.focus);
  } else return;
  event.preventDefault();
}

function moveTo(place) {
  if (!length()) return;
  if (!view.lanes) focusOn(shown[place]);
  else {
    const { rows } = lanes[place];
    focusOn(rows[Math.min(rows.length - 1, firstIn(rows, start[view.focus]))]);
  }
}

function moveInTree(inward) {
  const row = view.focus;
  if (inward && hasChildren(row) && folded[row]) fold(row, false);
  else if (inward && hasChildren(row)) moveTo(Math.min(length() - 1, placeOf[row] + 1));
  else if (!inward && hasChildren(row) && !folded[row]) fold(row, true);
  else if (!inward && parent[row] >= 0) focusOn(parent[row]);
}

function moveInLane(by) {
  const { rows } = lanes[placeOf[view.focus]];
  const row = rows[Math.min(rows.length - 1, Math.max(0, rows.indexOf(view.focus) + by))];
  focusOn(row);
  if (start[row] > view.to || end[row] < view.from) zoomTo(row);
}

// Return the row below the pointer (in lanes, the row of the span), or -1.
function rowAt(event) {
  const box = byId("window").getBoundingClientRect();
  const place = Math.floor((event.clientY - box.top + scroller.scrollTop) / ROW);
  if (place < 0 || place >= length()) return -1;
  if (!view.lanes) return shown[place];
  const x = event.clientX - box.left - names;
  const row = lanes[place].rows[firstIn(lanes[place].rows, toTime(x - 1))];
  return x > 0 && row !== undefined && toX(start[row]) <= x + 1 ? row : -1;
}

const inChart = (event) => event.clientX - byId("window").getBoundingClientRect().left > names;

function onWheel(event) {
  if (event.ctrlKey || event.metaKey) {
    const x = event.clientX - byId("window").getBoundingClientRect().left - names;
    zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 300))), toTime(Math.max(0, x)));
  } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    pan((event.shiftKey && !event.deltaX ? event.deltaY : event.deltaX) / wide);
  } else return;
  event.preventDefault();
}

// Dragging pans time and scrolls rows; a press without movement selects.
let drag = null;
function onPress(event) {
  if (event.button !== 0) return;
  drag = { x: event.clientX, y: event.clientY, from: view.from, to: view.to, top: scroller.scrollTop, moved: false, chart: inChart(event) };
}

function onMove(event) {
  if (!drag) {
    point(event);
    return;
  }
  const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
  if (!drag.chart || (!drag.moved && Math.hypot(x, y) < 4)) return;
  if (!drag.moved) byId("window").setPointerCapture(event.pointerId);
  drag.moved = true;
  byId("tip").hidden = true;
  const by = (-x * (drag.to - drag.from)) / (wide - 2 * EDGE);
  scroller.scrollTop = drag.top - y;
  show(drag.from + by, drag.to + by);
}

function onRelease(event) {
  const was = drag;
  drag = null;
  if (!was || was.moved) return;
  const row = rowAt(event);
  if (row < 0) return;
  view.focus = row;
  if (event.target.closest?.(".fold") && !view.lanes && hasChildren(row)) fold(row, !folded[row]);
  else openDetails(row);
}

function point(event) {
  const row = rowAt(event);
  const tip = byId("tip");
  if (row !== view.pointed) {
    view.pointed = row;
    refresh();
  }
  tip.hidden = row < 0 || !inChart(event);
  if (tip.hidden) return;
  const frame = byId("frame").getBoundingClientRect();
  const time = toTime(event.clientX - byId("window").getBoundingClientRect().left - names);
  tip.replaceChildren(
    element("b", { text: nameOf(row) }), ` ${runNameOf(row)}`,
    element("span", { text: [human(end[row] - start[row]), endingOf(row), text(data.rows.now[row]), phaseAt(row, time), isOnPath(row) ? `${human(onPath[row])} on the critical path` : ""].filter(Boolean).join(" · ") }),
    element("span", { text: text(data.rows.message[row]).slice(0, 300) }));
  const left = event.clientX - frame.left + 14;
  tip.style.left = `${Math.max(0, Math.min(left, frame.width - tip.offsetWidth - 4))}px`;
  const below = event.clientY - frame.top + 18;
  tip.style.top = `${below + tip.offsetHeight > frame.height ? below - tip.offsetHeight - 30 : below}px`;
}

function phaseAt(row, time) {
  for (let place = segments.at[row]; place < segments.at[row + 1]; place += 1) {
    if (segments.start[place] <= time && time < segments.end[place]) {
      const phase = segments.phase[place];
      return `here ${WORDS[phase]}, ${human(segments.end[place] - segments.start[place])}`;
    }
  }
  return "";
}

// Dragging in the minimap selects or moves the visible part.
let brushing = null;
function onBrushPress(event) {
  const time = miniTime(event.offsetX);
  const inside = isZoomed() && time >= view.from && time <= view.to;
  brushing = { time, x: event.offsetX, from: view.from, to: view.to, inside };
  byId("minimap").setPointerCapture(event.pointerId);
}

function onBrushMove(event) {
  if (!brushing) return;
  const time = miniTime(event.offsetX);
  if (brushing.inside) show(brushing.from + time - brushing.time, brushing.to + time - brushing.time);
  else if (Math.abs(event.offsetX - brushing.x) > 3) show(Math.min(time, brushing.time), Math.max(time, brushing.time));
}

function onBrushKey(event) {
  const does = {
    ArrowLeft: () => pan(-0.1), ArrowRight: () => pan(0.1), ArrowUp: () => zoom(1 / 1.5), ArrowDown: () => zoom(1.5),
    Home: () => show(whole[0], whole[0] + view.to - view.from), End: () => show(whole[1] - view.to + view.from, whole[1]),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
}

function setNames(width) {
  names = Math.max(130, width);
  measure();
  refresh();
}

function listen() {
  const on = (id, kind, does, options) => byId(id).addEventListener(kind, does, options);
  on("as-tree", "click", () => setLanes(false));
  on("as-lanes", "click", () => setLanes(true));
  on("path-only", "click", () => setPathOnly(!view.pathOnly));
  on("unfold", "click", () => foldAll(false));
  on("fold", "click", () => foldAll(true));
  on("search", "input", search);
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("zoom-in", "click", () => zoom(1 / 1.5));
  on("zoom-out", "click", () => zoom(1.5));
  on("zoom-all", "click", () => show(...whole));
  on("theme", "click", nextTheme);
  on("keys", "click", openHelp);
  on("scroller", "scroll", refresh, { passive: true });
  on("rows", "keydown", onRowKey);
  on("window", "wheel", onWheel, { passive: false });
  on("minimap", "wheel", onWheel, { passive: false });
  on("window", "pointerdown", onPress);
  on("window", "pointermove", onMove);
  on("window", "pointerup", onRelease);
  on("window", "pointercancel", () => { drag = null; });
  on("window", "pointerleave", () => {
    view.pointed = -1;
    byId("tip").hidden = true;
    refresh();
  });
  on("window", "dblclick", (event) => {
    const row = rowAt(event);
    if (row >= 0 && inChart(event)) zoomTo(row);
  });
  on("minimap", "pointerdown", onBrushPress);
  on("minimap", "pointermove", onBrushMove);
  on("minimap", "pointerup", () => { brushing = null; });
  on("minimap", "dblclick", () => show(...whole));
  on("minimap", "keydown", onBrushKey);
  on("divider", "pointerdown", (event) => byId("divider").setPointerCapture(event.pointerId));
  on("divider", "pointermove", (event) => {
    if (event.buttons) setNames(event.clientX - byId("frame").getBoundingClientRect().left);
  });
  on("divider", "keydown", (event) => {
    const by = { ArrowLeft: -16, ArrowRight: 16 }[event.key];
    if (by) setNames(names + by);
  });
  document.addEventListener("keydown", onKey);
  new ResizeObserver(() => { measure(); refresh(); }).observe(byId("frame"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { measure(); refresh(); });
  addEventListener("beforeprint", fillPaper);
  matchMedia("print").addEventListener("change", (print) => { if (print.matches) fillPaper(); });
}

fillPatterns();
fillHead();
fillNumbers();
fillLegend();
fillTasks();
fillCauses();
listen();
tellHits("");
rearrange();
show(...whole);
