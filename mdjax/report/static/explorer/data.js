// The page's data, how values are read and written as text, and what is selected. Texts of the data become text nodes
// alone, never markup.

const data = JSON.parse(document.getElementById("data").textContent);
const size = data.names.length;
const columns = new Map(data.columns.map((column) => [column.key, column]));
const everyRow = d3.range(size);

// What the parts of the page share: selected rows, the one looked at, and the rows that the table's filters leave.
const state = { selected: new Set(), focus: null, shown: null };
const listeners = [];

function onChange(listener) {
  listeners.push(listener);
}

function changed(what) {
  for (const listener of listeners) listener(what);
}

function select(rows, add = false) {
  const all = add && rows.every((row) => state.selected.has(row));
  if (!add) state.selected.clear();
  for (const row of rows) {
    if (all) state.selected.delete(row);
    else state.selected.add(row);
  }
  state.focus = state.selected.size ? (rows.find((row) => state.selected.has(row)) ?? [...state.selected][0]) : null;
  changed("selection");
}

// The rows that counts are about: those selected, else those that the filters leave.
function activeRows() {
  if (state.selected.size) return [...state.selected];
  return state.shown ? [...state.shown] : everyRow;
}

// The value of a column in a row: a number, a text, or null.
function valueOf(column, row) {
  const value = column.values[row];
  return column.kind === "level" && value !== null ? column.levels[value] : value;
}

function format(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (!Number.isFinite(value)) return "–";
  const text =
    Math.abs(value) >= 10 ** digits && Math.abs(value) < 1e15
      ? Math.round(value).toLocaleString("en-US")
      : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
}

function signed(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return (value > 0 ? "+" : "") + format(value, digits);
}

function labelOf(column) {
  return column.unit ? `${column.title} (${column.unit})` : column.title;
}

// A column's value with its standard error.
function told(column, row, digits = 4) {
  const value = format(valueOf(column, row), digits);
  const error = column.errors ? column.errors[row] : null;
  return error ? `${value} ± ${format(error, 2)}` : value;
}

function count(number, noun, plural = `${noun}s`) {
  return `${number.toLocaleString("en-US")} ${number === 1 ? noun : plural}`;
}

// An element with properties, attributes (names with a dash, and role) and children, of which texts stay texts.
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for" || name === "colspan") node.setAttribute(name, value);
    else if (name === "style") Object.assign(node.style, value);
    else node[name] = value;
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function badge(name) {
  const mark = data.marks[name];
  if (!mark) return null;
  return el("span", { className: "mark", "aria-hidden": "true", style: { background: mark.colour } }, mark.glyph);
}

// Addresses of pages: by name, or by number where another configuration has the same name.
const places = new Map();
everyRow.forEach((row) => {
  if (!places.has(data.names[row])) places.set(data.names[row], row);
});

function addressOf(row) {
  const name = data.names[row];
  return places.get(name) === row ? `#configuration=${encodeURIComponent(name)}` : `#row=${row + 1}`;
}

function rowAt(hash) {
  const named = /^#configuration=(.*)$/.exec(hash);
  const numbered = /^#row=(\d+)$/.exec(hash);
  if (numbered) return Number(numbered[1]) <= size ? Number(numbered[1]) - 1 : null;
  if (!named) return null;
  try {
    return places.get(decodeURIComponent(named[1])) ?? null;
  } catch {
    return null;
  }
}

function link(row, text = data.names[row]) {
  return el("a", { href: addressOf(row) }, text);
}
