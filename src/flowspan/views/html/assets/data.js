// The trace as columns by row. A row is a span, in the order of the tree.

const data = JSON.parse(byId("data").textContent);
const numbers = data.numbers;
const count = data.rows.name.length;

// The words also name each phase's share of the path. The waits before a span come first.
const PHASES = data.looks.map((look) => look.key);
const EXECUTION = PHASES.indexOf("execution");
const OTHER = PHASES.indexOf("other");
const RUN = 0;
const ATTEMPT = 1;

const text = (place) => data.texts[place];
const nameOf = (row) => text(data.rows.name[row]);
const runNameOf = (row) => text(data.rows.run[row]);
const outcomeOf = (row) => text(data.rows.outcome[row]);
const endingOf = (row) => text(data.rows.ending[row]);
const isFlow = (row) => data.rows.flow[row] === 1;

// Float64Array.from also reads times that are text; the exact times stay in `data`.
const start = Float64Array.from(data.rows.start);
const end = Float64Array.from(data.rows.end);
const parent = Int32Array.from(data.rows.parent);
const role = Uint8Array.from(data.rows.role);
const segments = {
  at: Int32Array.from(data.segments.at),
  phase: Uint8Array.from(data.segments.phase),
  start: Float64Array.from(data.segments.start),
  end: Float64Array.from(data.segments.end),
};
const path = {
  row: Int32Array.from(data.path.row),
  start: Float64Array.from(data.path.start),
  end: Float64Array.from(data.path.end),
  cause: Uint8Array.from(data.path.cause),
};
const upstream = { at: Int32Array.from(data.upstream.at), row: Int32Array.from(data.upstream.row) };

const whole = data.view.map(Number);
if (whole[1] <= whole[0]) whole[1] = whole[0] + 1;

const depth = new Int32Array(count);
const after = new Int32Array(count); // the end of the rows below a row
for (let row = 0; row < count; row += 1) {
  depth[row] = parent[row] < 0 ? 0 : depth[parent[row]] + 1;
}
for (let row = count - 1; row >= 0; row -= 1) {
  after[row] = Math.max(after[row], row + 1);
  if (parent[row] >= 0) after[parent[row]] = Math.max(after[parent[row]], after[row]);
}
const hasChildren = (row) => after[row] > row + 1;

const positions = new Int32Array(count); // position among its siblings, from 1
const siblings = new Int32Array(count + 1); // number of each row's children; the roots come last
for (let row = 0; row < count; row += 1) {
  const above = parent[row] < 0 ? count : parent[row];
  siblings[above] += 1;
  positions[row] = siblings[above];
}
const siblingsOf = (row) => siblings[parent[row] < 0 ? count : parent[row]];

// Group one column of rows by another: `at` is where in `items` each row's group begins.
function grouping(keys, items) {
  const at = new Int32Array(count + 1);
  for (const key of keys) if (key >= 0) at[key + 1] += 1;
  for (let row = 0; row < count; row += 1) at[row + 1] += at[row];
  const next = at.slice();
  const grouped = new Int32Array(at[count]);
  keys.forEach((key, place) => {
    if (key >= 0) {
      grouped[next[key]] = items(place);
      next[key] += 1;
    }
  });
  return { at, row: grouped };
}

const stretchesOf = grouping(path.row, (place) => place);
const dependants = new Int32Array(upstream.row.length);
for (let row = 0; row < count; row += 1) dependants.fill(row, upstream.at[row], upstream.at[row + 1]);
const downstream = grouping(upstream.row, (place) => dependants[place]);
const related = (links, row) => links.row.subarray(links.at[row], links.at[row + 1]);

const onPath = new Float64Array(count); // time of each row on the critical path
path.row.forEach((row, place) => {
  if (row >= 0) onPath[row] += path.end[place] - path.start[place];
});
const isOnPath = (row) => stretchesOf.at[row + 1] > stretchesOf.at[row];
const leadsToPath = new Uint8Array(count); // whether it, or a row below it, is on the critical path
for (let row = count - 1; row >= 0; row -= 1) {
  if (isOnPath(row)) leadsToPath[row] = 1;
  if (leadsToPath[row] && parent[row] >= 0) leadsToPath[parent[row]] = 1;
}
const pathLength = path.start.reduce((sum, begin, place) => sum + path.end[place] - begin, 0);

let parsedDetails = null;
function details() {
  parsedDetails ??= JSON.parse(byId("details-data").textContent);
  return parsedDetails;
}

// Return the rows whose names, message, attributes, events or logs contain a text, in tree order.
function find(wanted) {
  const needle = wanted.toLowerCase();
  const marks = (texts) => texts.map((one) => one.toLowerCase().includes(needle));
  const own = marks(data.texts);
  const told = marks(details().texts);
  const columns = ["name", "run", "message", "ending", "lane"].map((name) => data.rows[name]);
  const inDetails = (value) => (Array.isArray(value) ? value.some(inDetails) : told[value]);
  const found = [];
  for (let row = 0; row < count; row += 1) {
    const of = details().rows[row];
    if (
      data.rows.id[row] === needle ||
      columns.some((column) => own[column[row]]) ||
      inDetails(of.attributes) ||
      of.events.some(([name, , attributes]) => told[name] || inDetails(attributes)) ||
      of.links.some(([, , id, attributes]) => told[id] || inDetails(attributes)) ||
      of.logs.some(([, level, message, logger, fields, stack]) =>
        inDetails([level, message, logger, fields, stack]))
    ) found.push(row);
  }
  return found;
}
