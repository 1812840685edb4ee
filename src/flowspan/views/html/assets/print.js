// On paper: all unfolded rows, over the whole time, as wide as the page.

const MOST_ON_PAPER = 2000;
const UNITS = 1000; // width of the bars, in units scaled to the paper

function fillPaper() {
  const places = Math.min(length(), MOST_ON_PAPER);
  const scale = UNITS / (whole[1] - whole[0]);
  const at = (time) => (Math.min(Math.max(time, whole[0]), whole[1]) - whole[0]) * scale;
  const step = tickStep(whole[1] - whole[0], 8);
  const ticks = [];
  for (let number = Math.ceil(whole[0] / step); number * step <= whole[1]; number += 1) ticks.push(number * step);
  const axis = element("div", { class: "paper-axis" }, ...ticks.filter((time) => at(time) < UNITS * 0.97).map((time) => {
    const label = element("span", { text: tick(time, step) });
    label.style.left = `${at(time) / UNITS * 100}%`;
    return label;
  }));
  const rows = [element("div", { class: "paper-row" }, element("span", { text: "" }), element("span", { text: "" }), axis)];
  for (let place = 0; place < places; place += 1) rows.push(paperRow(place, at, ticks));
  if (length() > places) {
    rows.push(element("p", { text: `${grouped(length() - places)} more rows: fold some, or show only the critical path, to print them.` }));
  }
  byId("paper").replaceChildren(...rows);
}

function paperRow(place, at, ticks) {
  const own = view.lanes ? lanes[place].rows : [shown[place]];
  const row = own[0];
  const label = element("span", { class: "paper-name", text: view.lanes ? lanes[place].name : labelOf(row).join("") });
  if (!view.lanes) label.style.paddingLeft = `${Math.min(depth[row], 12) * 8}px`;
  const bars = drawing("svg", { viewBox: `0 0 ${UNITS} 16`, preserveAspectRatio: "none", "aria-hidden": "true" },
    ...ticks.map((time) => drawing("rect", { x: at(time), width: 0.6, height: 16, fill: "var(--grid)" })),
    ...own.flatMap((one) => paperBars(one, at)));
  const long = view.lanes ? "" : `${SIGNS[outcomeOf(row)]} ${human(end[row] - start[row])}`;
  return element("div", { class: "paper-row" }, label, element("span", { class: "number", text: long }), bars);
}

function paperBars(row, at) {
  const bars = [];
  const add = (from, to, y, height, fill) => {
    bars.push(drawing("rect", { x: at(from), y, width: Math.max(1.5, at(to) - at(from)), height, fill }));
  };
  for (let place = segments.at[row]; place < segments.at[row + 1]; place += 1) {
    const phase = segments.phase[place];
    if (view.lanes && segments.end[place] <= start[row]) continue;
    const look = lookOf(row, phase);
    const fill = look === EXECUTION && isFlow(row) ? "var(--flow)" : `url(#look-${look})`;
    add(segments.start[place], segments.end[place], 6.5 - HEIGHTS[look] * 0.42, HEIGHTS[look] * 0.84, fill);
  }
  for (let place = stretchesOf.at[row]; place < stretchesOf.at[row + 1]; place += 1) {
    const stretch = stretchesOf.row[place];
    add(path.start[stretch], path.end[stretch], 13.4, 2, "var(--path)");
  }
  return bars;
}
