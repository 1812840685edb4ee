// How each phase looks: its colour, and a pattern that tells it apart without colour.

const WORDS = [
  "late start", "infrastructure", "queue", "dependencies", "concurrency",
  "execution", "retry wait", "pause", "orchestration", "other span",
];
const TOLD = [
  "a late start", "infrastructure", "the queue", "dependencies", "a concurrency slot",
  "execution", "a retry", "a pause", "orchestration", "a span that is no run",
];

const TILE = 8;
// Lines within a tile, [x1, y1, x2, y2, width]. Those of thin bars, which lie anywhere on a tile, run
// from its top to its bottom.
const PATTERNS = [
  [[1, 0, 1, 8, 2], [5, 0, 5, 8, 2]],
  [[3, 0, 3, 8, 6]],
  [[4, 0, 4, 8, 8]],
  [[1, 2, 3, 2, 2], [5, 6, 7, 6, 2]],
  [[-2, 2, 2, -2, 2.2], [-2, 10, 10, -2, 2.2], [6, 10, 10, 6, 2.2]],
  [],
  [[1.5, 0, 1.5, 8, 3]],
  [[-2, 6, 2, 10, 1.6], [-2, -2, 10, 10, 1.6], [6, -2, 10, 2, 1.6]],
  [[2, 0, 2, 8, 1], [6, 0, 6, 8, 1]],
  [],
];
// Height of a bar, of the twelve pixels there are.
const HEIGHTS = [4, 4, 3, 12, 12, 12, 4, 12, 12, 8];
const BAR = 12;
const FAILED = 10; // the look of execution that failed
const LOOKS = [...PHASES.keys(), FAILED];
PATTERNS.push([]);
HEIGHTS.push(BAR);

const KEYS = [...PHASES, "failed"];
const isThin = (look) => HEIGHTS[look] < 8;

// Of thin bars nothing lies between the lines; of others a light colour.
function fillPatterns() {
  byId("patterns").replaceChildren(drawing("defs", {}, ...LOOKS.map((look) => {
    const lines = PATTERNS[look].map(([x1, y1, x2, y2, width]) =>
      drawing("line", { x1, y1, x2, y2, "stroke-width": width, stroke: `var(--${KEYS[look]}-line)` }));
    const ground = isThin(look) ? [] : [drawing("rect", { width: TILE, height: TILE, fill: `var(--${KEYS[look]})` })];
    return drawing("pattern", { id: `look-${look}`, width: TILE, height: TILE, patternUnits: "userSpaceOnUse" },
      ...ground, ...lines);
  })));
}

// A little bar for a legend.
function swatch(look) {
  const height = HEIGHTS[look];
  return drawing("svg", { class: "swatch", width: 22, height: BAR, "aria-hidden": "true" },
    drawing("rect", { y: (BAR - height) / 2, width: 22, height, rx: height === BAR ? 2 : 0, fill: `url(#look-${look})` }));
}

// Colours and patterns for a canvas, as the style sheet has them now.
function palette(context, ratio) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const looks = LOOKS.map((look) => {
    if (!PATTERNS[look].length) return colour(KEYS[look]);
    const tile = document.createElement("canvas");
    tile.width = Math.round(TILE * ratio);
    tile.height = tile.width;
    const brush = tile.getContext("2d");
    brush.scale(tile.width / TILE, tile.width / TILE);
    if (!isThin(look)) {
      brush.fillStyle = colour(KEYS[look]);
      brush.fillRect(0, 0, TILE, TILE);
    }
    brush.strokeStyle = colour(`${KEYS[look]}-line`);
    for (const [x1, y1, x2, y2, width] of PATTERNS[look]) {
      brush.lineWidth = width;
      brush.beginPath();
      brush.moveTo(x1, y1);
      brush.lineTo(x2, y2);
      brush.stroke();
    }
    const made = context.createPattern(tile, "repeat");
    made.setTransform(new DOMMatrix().scale(TILE / tile.width));
    return made;
  });
  const solid = LOOKS.map((look) => colour(PATTERNS[look].length ? `${KEYS[look]}-line` : KEYS[look]));
  const named = Object.fromEntries(
    ["text", "quiet", "grid", "path", "accent", "ground", "flow", "on-bar", "bad"].map((name) => [name, colour(name)]));
  return { looks, solid, ...named };
}

function lookOf(row, phase) {
  const failed = outcomeOf(row) === "bad" && (phase === EXECUTION || phase === OTHER);
  return failed ? FAILED : phase;
}
