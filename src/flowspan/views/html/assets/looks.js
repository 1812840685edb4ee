// The look of each phase: its colour, and a pattern to distinguish it without colour.

const WORDS = data.looks.map((look) => look.word);
const NOUNS = data.looks.map((look) => look.noun);

const TILE = 8;
const BAR = 12;
const FAILED = PHASES.length; // the look of execution that failed
const LOOKS = [...PHASES.keys(), FAILED];
// Lines within a tile, [x1, y1, x2, y2, width].
const PATTERNS = [...data.looks.map((look) => look.pattern), []];
const HEIGHTS = [...data.looks.map((look) => look.height), BAR];

const KEYS = [...PHASES, "failed"];
const isThin = (look) => HEIGHTS[look] < 8;

// Thin bars have nothing between their lines; other bars have a light colour.
function fillPatterns() {
  byId("patterns").replaceChildren(drawing("defs", {}, ...LOOKS.map((look) => {
    const lines = PATTERNS[look].map(([x1, y1, x2, y2, width]) =>
      drawing("line", { x1, y1, x2, y2, "stroke-width": width, stroke: `var(--${KEYS[look]}-line)` }));
    const ground = isThin(look) ? [] : [drawing("rect", { width: TILE, height: TILE, fill: `var(--${KEYS[look]})` })];
    return drawing("pattern", { id: `look-${look}`, width: TILE, height: TILE, patternUnits: "userSpaceOnUse" },
      ...ground, ...lines);
  })));
}

// Make a small bar for a legend.
function swatch(look) {
  const height = HEIGHTS[look];
  return drawing("svg", { class: "swatch", width: 22, height: BAR, "aria-hidden": "true" },
    drawing("rect", { y: (BAR - height) / 2, width: 22, height, rx: height === BAR ? 2 : 0, fill: `url(#look-${look})` }));
}

// Read the current colours and patterns from the style sheet, for a canvas.
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
