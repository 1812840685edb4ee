// Draw only the visible part: bars, the critical path and arrows on a canvas, names as rows.

const ROW = 22;
const MINIMAP = 44;
const STRIP = 6;
const AXIS = 22;
const EDGE = 10; // room on either side of the bars
const FADED = 0.28;
const ARROWS = 300;

const brushes = {};
let looks = null;
let names = 300; // width of the names
let wide = 0; // width of the chart
let tall = 0; // height of the visible rows

const scroller = byId("scroller");
const rowsBox = byId("rows");

const toX = (time) => EDGE + ((time - view.from) * (wide - 2 * EDGE)) / (view.to - view.from);
const toTime = (x) => view.from + ((x - EDGE) * (view.to - view.from)) / (wide - 2 * EDGE);

function fit(id, width, height) {
  const canvas = byId(id);
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const brush = canvas.getContext("2d");
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
  brush.clearRect(0, 0, width, height);
  brushes[id] = brush;
  return brush;
}

// Measure sizes and colours again, after a change of size, theme or rows.
function measure() {
  const frame = byId("frame");
  const most = length() * ROW + MINIMAP + AXIS + 2;
  scroller.style.height = `${Math.max(180, Math.min(most, Math.round(window.innerHeight * 0.72)))}px`;
  names = Math.round(Math.min(names, Math.max(130, frame.clientWidth * 0.45)));
  frame.style.setProperty("--names", `${names}px`);
  frame.classList.toggle("narrow", names < 250);
  frame.classList.toggle("slim", names < 190);
  byId("sizer").style.height = `${Math.max(1, length()) * ROW}px`;
  tall = Math.max(ROW, scroller.clientHeight - MINIMAP - AXIS - 1);
  byId("window").style.height = `${Math.min(tall, Math.max(1, length()) * ROW)}px`;
  wide = Math.max(60, scroller.clientWidth - names);
  looks = palette(fit("chart", wide, tall), window.devicePixelRatio || 1);
  profile = null;
}

let waiting = false;
function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw();
  });
}

function draw() {
  const top = Math.min(scroller.scrollTop, Math.max(0, length() * ROW - tall));
  const first = Math.max(0, Math.floor(top / ROW));
  const last = Math.min(length(), Math.ceil((top + tall) / ROW));
  drawRows(first, last, top);
  drawMinimap();
  const ticks = drawAxis();
  const brush = fit("chart", wide, tall);
  drawGrid(brush, ticks);
  for (let place = first; place < last; place += 1) {
    const y = place * ROW - top;
    if (view.lanes) drawLane(brush, lanes[place], y);
    else drawSpan(brush, shown[place], y);
  }
  drawPath(brush, first, last, top);
  drawArrows(brush, top);
}

function drawGrid(brush, ticks) {
  brush.strokeStyle = looks.grid;
  brush.lineWidth = 1;
  brush.beginPath();
  for (const time of ticks) {
    const x = Math.round(toX(time)) + 0.5;
    brush.moveTo(x, 0);
    brush.lineTo(x, tall);
  }
  brush.stroke();
}

function drawAxis() {
  const brush = fit("axis", wide, AXIS);
  const step = tickStep(view.to - view.from, Math.floor(wide / 90));
  brush.font = "11px system-ui, sans-serif";
  brush.textBaseline = "middle";
  brush.fillStyle = looks.quiet;
  brush.strokeStyle = looks.grid;
  const ticks = [];
  for (let number = Math.ceil(toTime(0) / step); number * step <= toTime(wide); number += 1) {
    const time = number * step;
    const x = Math.round(toX(time)) + 0.5;
    ticks.push(time);
    brush.beginPath();
    brush.moveTo(x, AXIS - 6);
    brush.lineTo(x, AXIS);
    brush.stroke();
    const label = tick(time, step);
    const room = brush.measureText(label).width;
    if (x + room + 4 < wide) brush.fillText(label, x + 4, AXIS / 2 + 1);
  }
  return ticks;
}

// Fill a stretch of time with a look, at least one pixel wide.
function fillStretch(brush, look, from, to, middle, height) {
  const left = Math.max(-2, toX(from));
  const right = Math.min(wide + 2, Math.max(toX(to), left + 1));
  if (right <= left) return;
  brush.fillStyle = looks.looks[look];
  brush.fillRect(left, middle - height / 2, right - left, height);
}

// Draw the phases of a span; within one pixel, only the first.
function drawPhases(brush, row, middle, scale, inside) {
  let drawn = -Infinity;
  for (let place = segments.at[row]; place < segments.at[row + 1]; place += 1) {
    const phase = segments.phase[place];
    if (inside && segments.end[place] <= start[row]) continue;
    const right = toX(segments.end[place]);
    if (right < -1 || toX(segments.start[place]) > wide + 1 || right < drawn) continue;
    const look = lookOf(row, phase);
    if (look === EXECUTION && isFlow(row)) {
      // A flow's calls have rows below it, so its own bar is faint.
      fillStretch(brush, look, segments.start[place], segments.end[place], middle, HEIGHTS[look] * scale);
      brush.fillStyle = looks.flow;
      const left = Math.max(-2, toX(segments.start[place]));
      brush.fillRect(left, middle - BAR / 2 * scale + 3, Math.min(wide + 2, Math.max(right, left + 1)) - left, (BAR * scale) - 6);
    } else {
      fillStretch(brush, look, segments.start[place], segments.end[place], middle, HEIGHTS[look] * scale);
    }
    drawn = Math.max(right, toX(segments.start[place]) + 1);
  }
}

function drawSpan(brush, row, y) {
  const middle = y + 9;
  if (view.pathOnly && !isOnPath(row)) brush.globalAlpha = FADED;
  drawPhases(brush, row, middle, role[row] === ATTEMPT ? 0.7 : 1, false);
  brush.globalAlpha = 1;
  const first = segments.at[row];
  if (segments.start[first] < whole[0] && toX(whole[0]) > 0) {
    write(brush, `◂ ${human(whole[0] - segments.start[first])} more`, toX(whole[0]) + 3, middle, looks.text);
  }
  const right = toX(Math.max(end[row], segments.end[segments.at[row + 1] - 1]));
  if (outcomeOf(row) === "bad" && right > 0 && right < wide - 14) write(brush, "✗", right + 4, middle, looks.bad);
}

function write(brush, label, x, middle, colour) {
  brush.font = "11px system-ui, sans-serif";
  brush.textBaseline = "middle";
  brush.fillStyle = colour;
  brush.fillText(label, x, middle + 0.5);
}

function drawLane(brush, lane, y) {
  const middle = y + 9;
  let drawn = -Infinity;
  for (let place = firstIn(lane.rows, view.from); place < lane.rows.length; place += 1) {
    const row = lane.rows[place];
    const left = toX(start[row]);
    if (left > wide) break;
    const right = toX(end[row]);
    if (right < drawn) continue;
    if (view.pathOnly && !isOnPath(row)) brush.globalAlpha = FADED;
    drawPhases(brush, row, middle, 1, true);
    brush.globalAlpha = 1;
    drawn = Math.max(right, left + 1);
    const room = Math.floor((Math.min(right, wide) - Math.max(left, 0) - 8) / 6.5);
    const name = nameOf(row);
    if (room >= 3) {
      const label = name.length > room ? `${name.slice(0, room - 1)}…` : name;
      const box = Math.max(left, 0) + 3;
      brush.fillStyle = looks.ground;
      brush.globalAlpha = 0.82;
      brush.font = "11px system-ui, sans-serif";
      brush.fillRect(box, middle - 5, brush.measureText(label).width + 4, 10);
      brush.globalAlpha = 1;
      write(brush, label, box + 2, middle, looks.text);
    }
    if (row === view.focus || row === view.selected) {
      brush.strokeStyle = looks.accent;
      brush.lineWidth = 2;
      brush.strokeRect(Math.max(left, -3), middle - 8, Math.min(right, wide + 3) - Math.max(left, -3), 16);
    }
  }
}

// Return the first of non-overlapping rows that ends at a time or later.
function firstIn(rows, time) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (end[rows[middle]] < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

function firstStretch(time) {
  let [low, high] = [0, path.row.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (path.end[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Draw the critical path: a line below the bars, and thin lines from one span to the next.
function drawPath(brush, first, last, top) {
  brush.strokeStyle = looks.path;
  brush.fillStyle = looks.path;
  brush.lineWidth = 1;
  const lineOf = (place) => place * ROW - top + 18;
  let [previous, drawn, jumped] = [-1, -Infinity, -Infinity];
  for (let number = firstStretch(view.from); number < path.row.length; number += 1) {
    const left = toX(path.start[number]);
    if (left > wide) break;
    const row = path.row[number];
    const place = row < 0 ? -1 : placeOf[row];
    const right = toX(path.end[number]);
    if (place < 0) {
      previous = -1;
      continue;
    }
    if (previous >= 0 && place !== previous && left - jumped >= 2) {
      const [low, high] = [Math.min(place, previous), Math.max(place, previous)];
      if (high >= first && low < last) {
        const x = Math.round(left) - 0.5;
        brush.beginPath();
        brush.moveTo(x, Math.max(-2, lineOf(low)));
        brush.lineTo(x, Math.min(tall + 2, lineOf(high) + 2));
        brush.stroke();
        jumped = left;
      }
    }
    if (place >= first && place < last && (right > drawn || place !== previous)) {
      const from = Math.max(-2, left);
      brush.fillRect(from, lineOf(place), Math.min(wide + 2, Math.max(right, from + 1)) - from, 2.5);
      drawn = right;
    }
    previous = place;
  }
}

// Draw arrows from the spans that a span waited for, and to those that waited for it.
function drawArrows(brush, top) {
  const rows = new Set([view.pointed, view.focus].filter((row) => row >= 0));
  for (const row of rows) {
    const strong = row === view.pointed || view.pointed < 0;
    brush.globalAlpha = strong ? 1 : 0.45;
    related(upstream, row).subarray(0, ARROWS).forEach((other) => drawArrow(brush, other, row, top));
    related(downstream, row).subarray(0, ARROWS).forEach((other) => drawArrow(brush, row, other, top));
  }
  brush.globalAlpha = 1;
}

function drawArrow(brush, from, to, top) {
  if (placeOf[from] < 0 || placeOf[to] < 0 || placeOf[from] === placeOf[to] && !view.lanes) return;
  const [x1, y1] = [toX(end[from]), placeOf[from] * ROW - top + 9];
  const [x2, y2] = [toX(start[to]), placeOf[to] * ROW - top + 9];
  const bend = Math.max(14, Math.abs(x2 - x1) / 2);
  brush.strokeStyle = looks.accent;
  brush.fillStyle = looks.accent;
  brush.lineWidth = 1.5;
  brush.beginPath();
  brush.moveTo(x1, y1);
  brush.bezierCurveTo(x1 + bend, y1, x2 - bend, y2, x2 - 5, y2);
  brush.stroke();
  brush.beginPath();
  brush.moveTo(x2, y2);
  brush.lineTo(x2 - 7, y2 - 4);
  brush.lineTo(x2 - 7, y2 + 4);
  brush.fill();
}

// Count the tasks that execute at once, by pixel of the minimap; cached until something changes.
let profile = null;
function counted() {
  const bins = Math.max(1, Math.floor(wide - 2 * EDGE));
  const scale = bins / (whole[1] - whole[0]);
  const steps = new Float64Array(bins + 2);
  for (let row = 0; row < count; row += 1) {
    if (isFlow(row) || role[row] === ATTEMPT || (hasChildren(row) && role[row] !== RUN)) continue;
    for (let place = segments.at[row]; place < segments.at[row + 1]; place += 1) {
      if (segments.phase[place] !== EXECUTION && segments.phase[place] !== OTHER) continue;
      const left = Math.min(bins, Math.max(0, (segments.start[place] - whole[0]) * scale));
      const right = Math.min(bins, Math.max(0, (segments.end[place] - whole[0]) * scale));
      cover(steps, left, right);
    }
  }
  let [running, most] = [0, 1];
  const heights = new Float64Array(bins);
  for (let bin = 0; bin < bins; bin += 1) {
    running += steps[bin];
    heights[bin] = running;
    most = Math.max(most, running);
  }
  return { heights, most };
}

// Add a stretch to the differences between bins; each bin counts by its covered part.
function cover(steps, left, right) {
  for (const [edge, sign] of [[left, 1], [right, -1]]) {
    const bin = Math.floor(edge);
    const part = edge - bin;
    steps[bin] += sign * (1 - part);
    steps[bin + 1] += sign * part;
  }
}

const miniX = (time) => EDGE + ((time - whole[0]) * (wide - 2 * EDGE)) / (whole[1] - whole[0]);
const miniTime = (x) => whole[0] + ((x - EDGE) * (whole[1] - whole[0])) / (wide - 2 * EDGE);

// Draw the minimap: executing tasks above, causes on the critical path below, and the visible part.
function drawMinimap() {
  profile ??= counted();
  const brush = fit("minimap", wide, MINIMAP);
  const ground = MINIMAP - STRIP - 4;
  brush.fillStyle = looks.solid[EXECUTION];
  brush.globalAlpha = 0.55;
  brush.beginPath();
  brush.moveTo(EDGE, ground);
  profile.heights.forEach((height, bin) => {
    const y = ground - (height / profile.most) * (ground - 5);
    brush.lineTo(EDGE + bin, y);
    brush.lineTo(EDGE + bin + 1, y);
  });
  brush.lineTo(EDGE + profile.heights.length, ground);
  brush.fill();
  brush.globalAlpha = 1;
  let drawn = -Infinity;
  for (let number = 0; number < path.row.length; number += 1) {
    const left = miniX(path.start[number]);
    const right = miniX(path.end[number]);
    if (right < drawn + 0.5) continue;
    brush.fillStyle = looks.looks[path.cause[number]];
    brush.fillRect(Math.max(left, drawn), ground + 2, Math.max(1, right - Math.max(left, drawn)), STRIP);
    drawn = right;
  }
  const [left, right] = [miniX(view.from), miniX(view.to)];
  brush.fillStyle = looks.ground;
  brush.globalAlpha = 0.7;
  brush.fillRect(0, 0, left, MINIMAP);
  brush.fillRect(right, 0, wide - right, MINIMAP);
  brush.globalAlpha = 1;
  if (isZoomed()) {
    brush.strokeStyle = looks.accent;
    brush.lineWidth = 1.5;
    brush.strokeRect(left, 1, Math.max(2, right - left), MINIMAP - 2);
  }
}

const isZoomed = () => view.from > whole[0] || view.to < whole[1];

// Fill the names. The elements, as many as rows fit, are reused.
const pool = [];
function drawRows(first, last, top) {
  const places = [];
  for (let place = first; place < last; place += 1) places.push(place);
  const active = placeOf[view.focus];
  if (active >= 0 && (active < first || active >= last)) places.push(active); // keep the row with the keyboard focus
  while (pool.length < places.length) pool.push(rowsBox.appendChild(emptyRow()));
  pool.forEach((row, number) => {
    row.hidden = number >= places.length;
    if (row.hidden) row.removeAttribute("id");
    else if (view.lanes) fillLane(row, places[number], top);
    else fillRow(row, places[number], top);
  });
  rowsBox.setAttribute("aria-rowcount", String(length()));
  if (active >= 0) rowsBox.setAttribute("aria-activedescendant", `row-${active}`);
  else rowsBox.removeAttribute("aria-activedescendant");
}

function emptyRow() {
  const row = element("div", { class: "row", role: "row" },
    element("div", { class: "columns" },
      element("span", { class: "name", role: "gridcell" },
        element("span", { class: "fold", "aria-hidden": "true" }),
        element("span", { class: "sign", role: "img" }),
        element("span", { class: "label" }),
        element("span", { class: "alias" })),
      element("span", { class: "length", role: "gridcell" }),
      element("span", { class: "share", role: "gridcell" })));
  const [fold, sign, label, alias] = row.firstChild.firstChild.children;
  const [, long, share] = row.firstChild.children;
  row.parts = { fold, sign, label, alias, long, share, name: row.firstChild.firstChild };
  return row;
}

const SIGNS = { good: "", bad: "✗", odd: "○", open: "…", "": "" };

function fillRow(element, place, top) {
  const row = shown[place];
  const { fold, sign, label, alias, long, share, name } = element.parts;
  put(element, place, top);
  element.dataset.span = data.rows.id[row];
  element.dataset.row = row;
  element.setAttribute("aria-level", String(depth[row] + 1));
  element.setAttribute("aria-posinset", String(positions[row]));
  element.setAttribute("aria-setsize", String(siblingsOf(row)));
  if (hasChildren(row)) element.setAttribute("aria-expanded", String(!folded[row]));
  else element.removeAttribute("aria-expanded");
  element.setAttribute("aria-selected", String(row === view.selected));
  element.className = classes(row);
  // Leave room for the names of deep rows.
  name.style.paddingLeft = `${Math.min(depth[row] * 14, names * 0.4)}px`;
  fold.textContent = hasChildren(row) ? (folded[row] ? "▸" : "▾") : "";
  sign.textContent = SIGNS[outcomeOf(row)];
  sign.className = `sign ${outcomeOf(row)}`;
  if (sign.textContent) sign.setAttribute("aria-label", endingOf(row));
  else sign.removeAttribute("aria-label");
  [label.textContent, alias.textContent] = labelOf(row);
  long.textContent = human(end[row] - start[row]);
  const part = pathLength > 0 ? onPath[row] / pathLength : 0;
  share.textContent = part >= 0.0005 ? percent(part) : "";
}

function classes(row) {
  return [
    "row",
    isFlow(row) ? "flow" : "",
    role[row] === RUN ? "" : "minor",
    isOnPath(row) ? "critical" : "",
    row === view.focus ? "focused" : "",
    row === view.selected ? "selected" : "",
    row === view.pointed ? "pointed" : "",
    hitRows.has(row) ? "found" : "",
    row === view.hits[view.hit] ? "current" : "",
  ].join(" ");
}

let hitRows = new Set();

function fillLane(element, place, top) {
  const lane = lanes[place];
  const { fold, sign, label, alias, long, share, name } = element.parts;
  put(element, place, top);
  delete element.dataset.span;
  element.dataset.row = -1;
  for (const part of ["aria-expanded", "aria-posinset", "aria-setsize"]) element.removeAttribute(part);
  element.setAttribute("aria-level", "1");
  const focused = placeOf[view.focus] === place;
  element.setAttribute("aria-selected", String(focused));
  element.className = `row lane ${lane.level ? "minor" : ""} ${focused ? "focused" : ""}`;
  name.style.paddingLeft = lane.level ? "14px" : "0";
  for (const part of [fold, sign, share]) part.textContent = "";
  label.textContent = lane.level ? "" : lane.name;
  const focus = standIn(view.focus);
  alias.textContent = lane.level ? `level ${lane.level + 1}` : "";
  element.setAttribute("aria-label", `${lane.name}${lane.level ? `, level ${lane.level + 1}` : ""}${
    focused && focus >= 0 ? `: ${nameOf(focus)} ${runNameOf(focus)}, ${human(end[focus] - start[focus])}` : ""}`);
  lane.busy ??= lane.rows.reduce((sum, row) => sum + end[row] - start[row], 0);
  long.textContent = human(lane.busy);
}

function put(element, place, top) {
  element.id = `row-${place}`;
  element.setAttribute("aria-rowindex", String(place + 1));
  element.style.transform = `translateY(${place * ROW - top}px)`;
  if (!view.lanes) element.removeAttribute("aria-label");
}
