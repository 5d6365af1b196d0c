// The map: one number or verdict of every configuration over two columns of the reader's choice.

const mostLevels = 40; // of an axis that is drawn as cells; more are points
const view = { x: data.first[0], y: data.first[1], colour: columns.has("cause") ? "cause" : data.first[0], panel: "", slices: new Map() };
const axisColumns = data.axes.map((key) => columns.get(key));
const shapes = ":is(g[aria-label='cell'] rect, g[aria-label='dot'] circle)";
let drawnCells = []; // what is drawn: {x, y, panel, rows, value}

const groups = {
  verdict: "Verdict", probability: "Causes", feature: "Features", sweep: "What the sweep shows",
  compared: "Compared", setting: "Settings",
};

function choice(label, value, options, choose) {
  const menu = el("select", { onchange: () => choose(menu.value) });
  for (const [group, entries] of d3.group(options, (option) => option.group)) {
    const items = entries.map((entry) => el("option", { value: entry.value, selected: entry.value === value }, entry.text));
    if (group) menu.append(el("optgroup", { label: group }, items));
    else menu.append(...items);
  }
  return el("label", {}, el("span", {}, label), menu);
}

function optionsOf(wanted) {
  const found = data.columns.filter(wanted);
  return d3.sort(found, (column) => Object.keys(groups).indexOf(column.group))
    .map((column) => ({ value: column.key, text: labelOf(column), group: groups[column.group] }));
}

function levelsOf(column) {
  const values = new Set(everyRow.map((row) => valueOf(column, row)).filter((value) => value !== null));
  return column.kind === "number" ? d3.sort(values) : [...values].sort();
}

// Axes of the sweep that are not on the map: one value of each is shown, at first the most frequent, the largest of equals.
function sliced() {
  return axisColumns.filter((column) => ![view.x, view.y, view.panel].includes(column.key) && levelsOf(column).length <= mostLevels);
}

function sliceOf(column) {
  if (!view.slices.has(column.key)) {
    const counts = d3.rollups(everyRow, (rows) => rows.length, (row) => valueOf(column, row)).filter(([value]) => value !== null);
    view.slices.set(column.key, d3.greatest(counts, (a, b) => d3.ascending(a[1], b[1]) || d3.ascending(a[0], b[0]))[0]);
  }
  return view.slices.get(column.key);
}

function drawControls() {
  const onAxes = optionsOf((column) => column.axis || column.group === "feature");
  const set = (name) => (value) => {
    view[name] = value;
    drawControls();
    drawMap();
  };
  const panels = [{ value: "", text: "none" }, ...axisColumns.filter((column) => levelsOf(column).length <= 12)
    .map((column) => ({ value: column.key, text: labelOf(column) }))];
  const colours = optionsOf((column) => !["note", "setting"].includes(column.group) && (column.levels || column.kind === "number"));
  const menus = [
    choice("Colour", view.colour, colours, set("colour")),
    choice("Across", view.x, onAxes, set("x")),
    choice("Up", view.y, onAxes, set("y")),
  ];
  if (panels.length > 1) menus.push(choice("Panels", view.panel, panels, set("panel")));
  for (const column of sliced()) {
    const values = levelsOf(column);
    const options = [{ value: "all", text: "all (mean)" }, ...values.map((value, k) => ({ value: String(k), text: format(value) }))];
    const chosen = sliceOf(column);
    menus.push(choice(labelOf(column), chosen === "all" ? "all" : String(values.indexOf(chosen)), options, (value) => {
      view.slices.set(column.key, value === "all" ? "all" : values[Number(value)]);
      drawMap();
    }));
  }
  document.getElementById("controls").replaceChildren(...menus);
}

function rowsOnMap() {
  const held = sliced().map((column) => [column, sliceOf(column)]).filter(([, value]) => value !== "all");
  return everyRow.filter((row) => held.every(([column, value]) => valueOf(column, row) === value));
}

function cellsOf(rows, x, y, colour, panel) {
  const keyed = d3.group(rows, (row) => JSON.stringify([valueOf(x, row), valueOf(y, row), panel ? valueOf(panel, row) : ""]));
  const found = [];
  for (const own of keyed.values()) {
    const at = [valueOf(x, own[0]), valueOf(y, own[0])];
    if (at.includes(null)) continue;
    const value = colour.kind === "number"
      ? d3.mean(own, (row) => colour.values[row]) ?? null
      : d3.greatest(d3.rollups(own, (same) => same.length, (row) => valueOf(colour, row)), (one) => one[1])[0];
    found.push({ x: at[0], y: at[1], panel: panel ? format(valueOf(panel, own[0])) : "", rows: own, value });
  }
  return found;
}

function colourScale(colour, values) {
  if (colour.kind === "level") {
    const marked = colour.levels.every((level) => data.marks[level]);
    const range = marked ? colour.levels.map((level) => data.marks[level].colour) : undefined;
    return { type: "categorical", domain: colour.levels, range, scheme: marked ? undefined : "Observable10", marked };
  }
  const [low, high] = d3.extent(values);
  if (colour.diverging) return { type: "diverging", scheme: "BuRd", pivot: 0, label: labelOf(colour) };
  if (colour.group === "probability") return { type: "linear", domain: [0, 1], scheme: "viridis", label: colour.title };
  if (colour.log && low > 0 && high / low > 10) return { type: "log", scheme: "viridis", label: `${labelOf(colour)}, log` };
  return { type: "linear", scheme: "viridis", label: labelOf(colour), domain: low === high ? [low - 0.5, high + 0.5] : undefined };
}

function axisOf(column, cellular) {
  const label = labelOf(column);
  if (cellular) return { type: "band", domain: levelsOf(column), label, tickFormat: (value) => format(value), padding: 0 };
  if (column.kind === "level") return { type: "point", label };
  const values = column.values.filter((value) => value !== null);
  const log = d3.min(values) > 0 && d3.max(values) / d3.min(values) > 50;
  return { type: log ? "log" : "linear", label, nice: true, grid: true, tickFormat: log ? (value) => format(value) : undefined };
}

function drawMap() {
  const holder = document.getElementById("map");
  const [x, y, colour] = [view.x, view.y, view.colour].map((key) => columns.get(key));
  const panel = view.panel ? columns.get(view.panel) : null;
  const cellular = [x, y].every((column) => column.axis && levelsOf(column).length <= mostLevels);
  const rows = rowsOnMap();
  drawnCells = cellular
    ? cellsOf(rows, x, y, colour, panel)
    : rows.filter((row) => valueOf(x, row) !== null && valueOf(y, row) !== null).map((row) => (
      { x: valueOf(x, row), y: valueOf(y, row), panel: panel ? format(valueOf(panel, row)) : "", rows: [row], value: valueOf(colour, row) }));
  const known = drawnCells.filter((cell) => cell.value !== null);
  const scale = colourScale(colour, known.map((cell) => cell.value));
  const channels = { x: "x", y: "y", ...(panel ? { fx: "panel" } : {}) };
  const panels = panel ? levelsOf(panel).map((value) => format(value)) : undefined;
  const width = Math.max(holder.parentElement.clientWidth, panels ? 190 * panels.length : 0);
  const marks = cellular
    ? [
      Plot.cell(drawnCells, { ...channels, fill: (cell) => cell.value, inset: 1, stroke: "currentColor",
        strokeOpacity: 0.25, strokeWidth: 0.5 }),
      Plot.text(drawnCells.filter((cell) => cell.value === null), { ...channels, text: () => "·", fill: "currentColor", pointerEvents: "none" }),
    ]
    : [Plot.dot(drawnCells, { ...channels, fill: (cell) => cell.value, r: drawnCells.length > 2000 ? 2.5 : 4.5,
      stroke: "currentColor", strokeWidth: 0.5 })];
  const cause = columns.get("cause");
  if (cellular && cause && drawnCells.length <= 1500) {
    const glyph = (cell) => data.marks[colour.kind === "level" && scale.marked ? cell.value : commonCause(cell.rows)]?.glyph;
    marks.push(Plot.text(drawnCells, { ...channels, text: glyph, fill: scale.marked ? "#222" : "white",
      stroke: scale.marked ? "none" : "rgba(0,0,0,.55)", strokeWidth: 2.5, fontSize: 11, pointerEvents: "none" }));
  }
  const tall = cellular ? Math.min(460, Math.max(190, 44 * levelsOf(y).length)) : 400;
  const left = cellular ? 24 + 7 * d3.max(levelsOf(y), (value) => format(value).length) : 58;
  const chart = Plot.plot({
    width, height: tall + 60 + (panels ? 30 : 0), marginLeft: Math.max(44, left), marginBottom: 42, marginTop: panels ? 46 : 28,
    x: axisOf(x, cellular), y: { ...axisOf(y, cellular), reverse: cellular },
    ...(panels ? { fx: { label: labelOf(panel), domain: panels } } : {}),
    color: scale, style: { fontSize: "12px", background: "none", overflow: "visible" }, marks,
  });
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", `${labelOf(colour)} over ${labelOf(x)} and ${labelOf(y)}; the table below holds the same numbers`);
  holder.replaceChildren(chart);
  drawLegend(colour, scale, known.length ? chart : null);
  paintMap();
}

function commonCause(rows) {
  const cause = columns.get("cause");
  return d3.greatest(d3.rollups(rows, (same) => same.length, (row) => valueOf(cause, row)), (one) => one[1])[0];
}

function drawLegend(colour, scale, chart) {
  const holder = document.getElementById("legend");
  if (colour.kind === "number") {
    holder.replaceChildren(...(chart ? [Plot.legend({ color: { ...chart.scale("color"), label: scale.label }, width: 280 })] : []));
    return;
  }
  const entries = colour.levels.map((level) => {
    const rows = everyRow.filter((row) => valueOf(colour, row) === level);
    const swatch = badge(level) ?? el("span", { className: "mark", style: { background: d3.schemeObservable10?.[colour.levels.indexOf(level) % 10] ?? "#888" } });
    const text = `${level}: ${rows.length.toLocaleString("en-US")}`;
    return el("button", { type: "button", title: "select these", onclick: (event) => select(rows, event.ctrlKey || event.shiftKey) }, swatch, text);
  });
  holder.replaceChildren(...entries);
}

function mapShapes() {
  return d3.selectAll(`#map ${shapes}`);
}

// Selected cells get an outline; those without a selected row, or without one that the filters leave, fade.
function paintMap() {
  const kept = state.selected.size ? state.selected : state.shown;
  mapShapes().each(function (index) {
    const cell = drawnCells[index];
    const isPicked = cell.rows.some((row) => state.selected.has(row));
    this.classList.toggle("picked", isPicked);
    this.classList.toggle("faded", kept !== null && !cell.rows.some((row) => kept.has(row)));
  });
}

function startMap() {
  const holder = document.getElementById("map");
  const cellAt = (event) => {
    const shape = event.target.closest(shapes);
    return shape && holder.contains(shape) ? drawnCells[d3.select(shape).datum()] : null;
  };
  holder.addEventListener("pointermove", (event) => {
    const cell = cellAt(event);
    if (cell) showTip(cell.rows, event);
    else hideTip();
  });
  holder.addEventListener("pointerleave", hideTip);
  holder.addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (cell) select(cell.rows, event.ctrlKey || event.shiftKey || event.metaKey);
  });
  drawControls();
  drawMap();
  onChange(paintMap);
}
