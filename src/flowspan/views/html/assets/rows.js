// The rows shown: unfolded rows of the tree, or lanes by worker.

const view = {
  from: whole[0],
  to: whole[1],
  lanes: false,
  pathOnly: false,
  focus: 0, // the row of the tree with the keyboard focus
  selected: -1, // the row whose details are open
  pointed: -1, // the row below the pointer
  hits: [],
  hit: -1,
};

const folded = new Uint8Array(count);
let shown = []; // rows of the tree, from top to bottom
let lanes = []; // each {name, level, rows}, rows by start; rows of one level do not overlap
let placeOf = new Int32Array(count); // where a row, or the row that stands for it, is shown; or -1

function arrange() {
  placeOf = new Int32Array(count).fill(-1);
  if (view.lanes) {
    lanes = packed().filter((lane) => !view.pathOnly || lane.rows.some(isOnPath));
    lanes.forEach((lane, place) => lane.rows.forEach((row) => { placeOf[row] = place; }));
  } else {
    shown = [];
    for (let row = 0; row < count;) {
      if (view.pathOnly && !leadsToPath[row]) {
        row = after[row];
      } else {
        placeOf[row] = shown.length;
        shown.push(row);
        row = folded[row] ? after[row] : row + 1;
      }
    }
  }
  for (let row = 0; row < count; row += 1) {
    if (placeOf[row] < 0 && parent[row] >= 0) placeOf[row] = placeOf[parent[row]];
  }
}

// Return the name of a span, and the text that distinguishes it from same-named siblings.
function labelOf(row) {
  const own = nameOf(row);
  const other = text(data.rows.alias[row]);
  return [own, other.startsWith(own) ? other.slice(own.length) : other && ` ${other}`];
}

const length = () => (view.lanes ? lanes.length : shown.length);

// Return the row that stands for a row: itself, or the row it is folded into.
function standIn(row) {
  let found = row;
  const isShown = (one) => (view.lanes ? placeOf[one] >= 0 && data.rows.lane[one] : shown[placeOf[one]] === one);
  while (found >= 0 && !isShown(found)) found = parent[found];
  return found;
}

let lanesOfTrace = null;
function packed() {
  lanesOfTrace ??= pack();
  return lanesOfTrace;
}

// Lay the spans of each worker on as few levels as possible, callers above the spans they called.
function pack() {
  const byName = new Map();
  for (let row = 0; row < count; row += 1) {
    const lane = data.rows.lane[row];
    if (!lane) continue;
    if (!byName.has(lane)) byName.set(lane, []);
    byName.get(lane).push(row);
  }
  const made = [];
  for (const [lane, rows] of byName) {
    rows.sort((a, b) => start[a] - start[b] || end[b] - end[a] || a - b);
    const levels = [];
    for (const row of rows) {
      let level = levels.findIndex((one) => one.end <= start[row]);
      if (level < 0) level = levels.push({ end: 0, rows: [] }) - 1;
      levels[level].rows.push(row);
      levels[level].end = Math.max(end[row], start[row] + 1);
    }
    levels.forEach((one, level) => made.push({ name: text(lane), level, levels: levels.length, rows: one.rows }));
  }
  return made;
}

// Reveal a row. In lanes, a row without a lane stays hidden.
function reveal(row) {
  for (let above = parent[row]; above >= 0; above = parent[above]) folded[above] = 0;
  arrange();
  if (standIn(row) !== row && view.pathOnly) {
    view.pathOnly = false;
    arrange();
  }
}
