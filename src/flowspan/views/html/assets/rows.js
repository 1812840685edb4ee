// Which rows are shown: those of the tree that are not folded away, or lanes by worker.

const view = {
  from: whole[0],
  to: whole[1],
  lanes: false,
  pathOnly: false,
  focus: 0, // the row of the tree that the keyboard is on
  selected: -1, // the one whose details are open
  pointed: -1, // the one below the pointer
  hits: [],
  hit: -1,
};

const folded = new Uint8Array(count);
let shown = []; // rows of the tree, from top to bottom
let lanes = []; // of each {name, level, rows}, rows by start; those of one level do not overlap
let placeOf = new Int32Array(count); // where a row, or what stands for it, is shown; -1 if nowhere

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

// The name of a span, and what tells it from its siblings of the same name.
function labelOf(row) {
  const own = nameOf(row);
  const other = text(data.rows.alias[row]);
  return [own, other.startsWith(own) ? other.slice(own.length) : other && ` ${other}`];
}

const length = () => (view.lanes ? lanes.length : shown.length);

// The row that stands for a row: itself, or the one it is folded into.
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

// Lay the spans of each worker on as few levels as they need, the callers above the called.
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

// Show a row, whatever hides it; one without a lane is hidden among them for good.
function reveal(row) {
  for (let above = parent[row]; above >= 0; above = parent[above]) folded[above] = 0;
  arrange();
  if (standIn(row) !== row && view.pathOnly) {
    view.pathOnly = false;
    arrange();
  }
}
