// Pictures of one configuration: evidence against thresholds, gains, spectra, densities, layers, surfaces and curves.

const plain = { style: { fontSize: "12px", background: "none", overflow: "visible" } };

function figure(title, node, note) {
  return el("figure", {}, el("figcaption", {}, title, note ? el("small", {}, note) : null), el("div", { className: "scroll", tabIndex: 0 }, node));
}

function described(chart, text) {
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", text);
  return chart;
}

// A value with two standard errors against its threshold and where that is believed to lie; ticks are the other rows.
function evidenceFigure(step, others, width) {
  const reach = step.error ? 2 * step.error : 0;
  const band = step.interval ?? [step.threshold, step.threshold];
  const near = [step.threshold, ...band, ...(step.value === null ? [] : [step.value - reach, step.value + reach])];
  const [low, high] = d3.extent(near);
  const margin = Math.max((high - low) * 0.5, Math.abs(step.threshold) * 0.02, 1e-9);
  const domain = [low - margin, high + margin];
  const within = others.filter((value) => value !== null && value >= domain[0] && value <= domain[1]).slice(0, 1500);
  const chart = Plot.plot({
    ...plain, width, height: 74, marginLeft: 14, marginRight: 14, marginTop: 18, marginBottom: 34,
    x: { domain, label: step.title, tickFormat: (value) => format(value, 3), ticks: 5 }, y: { axis: null, domain: [0, 1] },
    marks: [
      Plot.ruleX(within, { x: (value) => value, y1: 0.2, y2: 0.8, strokeOpacity: 0.12 }),
      step.interval ? Plot.rect([band], { x1: (one) => one[0], x2: (one) => one[1], y1: 0, y2: 1, fill: "var(--accent)", fillOpacity: 0.16 }) : null,
      Plot.ruleX([step.threshold], { stroke: "var(--accent)", strokeWidth: 2 }),
      Plot.text([step.threshold], { x: (value) => value, y: 1, text: () => `threshold ${format(step.threshold)}`, dy: -8, fill: "var(--accent)" }),
      step.value !== null && reach ? Plot.link([step], { x1: step.value - reach, x2: step.value + reach, y1: 0.5, y2: 0.5, stroke: "currentColor", strokeWidth: 2 }) : null,
      step.value !== null ? Plot.dot([step], { x: "value", y: 0.5, r: 5, fill: "currentColor" }) : null,
    ],
  });
  return described(chart, `${step.title}: ${format(step.value)} against the threshold ${format(step.threshold)}`);
}

function gainsFigure(entries, width) {
  const left = Math.min(270, width / 2.2);
  const chart = Plot.plot({
    ...plain, width, height: 34 * entries.length + 44, marginLeft: left, marginBottom: 36, marginRight: 48,
    x: { label: "points of test accuracy", grid: true }, y: { label: null, domain: entries.map((entry) => entry.text) },
    marks: [
      Plot.axisY({ lineWidth: left / 13, tickSize: 0 }),
      Plot.ruleX([0]),
      Plot.barX(entries, { y: "text", x: "points", fill: "var(--accent)", fillOpacity: 0.55, insetTop: 5, insetBottom: 5 }),
      Plot.ruleY(entries.filter((entry) => entry.error), { y: "text", x1: (entry) => entry.points - 2 * entry.error, x2: (entry) => entry.points + 2 * entry.error, strokeWidth: 1.5 }),
      Plot.text(entries, { y: "text", x: (entry) => Math.max(0, entry.points + 2 * (entry.error ?? 0)), dx: 5, textAnchor: "start", text: (entry) => signed(entry.points) }),
    ],
  });
  return described(chart, entries.map((entry) => `${entry.text}: ${signed(entry.points)} points`).join("; "));
}

function densityFigure(found, width) {
  const floor = (d3.max(found.density) || 1) * 1e-7;
  const rows = found.grid.map((x, k) => ({
    x, y: Math.max(found.density[k], floor),
    low: Math.max(found.density[k] - 2 * (found.error?.[k] ?? 0), floor), high: Math.max(found.density[k] + 2 * (found.error?.[k] ?? 0), floor),
  }));
  return described(Plot.plot({
    ...plain, width, height: 240, marginLeft: 56, x: { label: "eigenvalue" },
    y: { type: "log", label: "density", grid: true, ticks: 5, tickFormat: (value) => format(value, 2) },
    marks: [
      Plot.areaY(rows, { x: "x", y1: "low", y2: "high", fill: "var(--accent)", fillOpacity: 0.25 }),
      Plot.lineY(rows, { x: "x", y: "y", stroke: "var(--accent)" }),
    ],
  }), "Spectral density of the Hessian with a band of two standard errors");
}

function spectrumFigure(found, width) {
  const kinds = [["largest", found.largest, found.residuals], ["smallest", found.smallest, found.smallest_residuals]];
  const rows = kinds.flatMap(([kind, values, residuals]) => (values ?? []).map((value, k) => (
    { kind, number: k + 1, value, error: Math.abs(value * (residuals?.[k] ?? 0)) }))).filter((row) => row.value !== null);
  return described(Plot.plot({
    ...plain, width, height: 230, marginLeft: 56, x: { label: "number", ticks: d3.max(rows, (row) => row.number), tickFormat: "d" },
    y: { label: "eigenvalue", grid: true, zero: true }, symbol: { legend: true }, color: { domain: ["largest", "smallest"], range: ["var(--accent)", "currentColor"] },
    marks: [
      Plot.ruleY([0]),
      Plot.ruleX(rows, { x: "number", y1: (row) => row.value - row.error, y2: (row) => row.value + row.error }),
      Plot.dot(rows, { x: "number", y: "value", symbol: "kind", stroke: "kind", r: 4 }),
    ],
  }), `Eigenvalues of the ${found.matrix}: ${rows.map((row) => format(row.value, 3)).join(", ")}`);
}

function layersFigure(found, width) {
  const rows = found.names.flatMap((name, k) => [
    { name, kind: "trace", value: found.trace?.[k], error: found.error?.[k] }, { name, kind: "largest eigenvalue", value: found.eigenvalue?.[k] },
  ]).filter((row) => row.value !== null && row.value !== undefined);
  return described(Plot.plot({
    ...plain, width, height: 60 + 34 * found.names.length, marginLeft: Math.min(170, width / 2.5),
    x: { label: `of the ${found.matrix}, by layer`, grid: true }, y: { label: null, axis: null }, fy: { label: null, domain: found.names, padding: 0.15 },
    color: { legend: true, domain: ["trace", "largest eigenvalue"], range: ["var(--accent)", "#0072b2"] },
    marks: [
      Plot.axisFy({ anchor: "left", lineWidth: 14 }),
      Plot.barX(rows, { fy: "name", y: "kind", x: "value", fill: "kind" }),
      Plot.ruleY(rows.filter((row) => row.error), { fy: "name", y: "kind", x1: (row) => row.value - row.error, x2: (row) => row.value + row.error }),
      Plot.ruleX([0]),
    ],
  }), `Trace and largest eigenvalue of the ${found.matrix} by layer`);
}

function surfaceFigure(found, kind, width) {
  const values = found[kind];
  if (!found.y) {
    return described(Plot.plot({
      ...plain, width, height: 220, x: { label: "distance from the network" }, y: { label: kind, grid: true },
      marks: [Plot.lineY(found.x.map((x, k) => ({ x, y: values[k] })), { x: "x", y: "y", stroke: "var(--accent)" })],
    }), `${kind} along a line through the network`);
  }
  // Rows of the plane are steps along the first direction.
  const grid = found.y.flatMap((y, j) => found.x.map((x, i) => values[i][j]));
  return described(Plot.plot({
    ...plain, width, height: Math.min(360, width * 0.8), x: { label: "first direction" }, y: { label: "second direction" },
    color: { scheme: "viridis", label: kind, legend: true },
    marks: [
      Plot.contour(grid.map((value) => value ?? NaN), { width: found.x.length, height: found.y.length, x1: found.x[0], x2: found.x.at(-1),
        y1: found.y[0], y2: found.y.at(-1), fill: Plot.identity, stroke: "white", strokeOpacity: 0.35, thresholds: 16 }),
      Plot.dot([[0, 0]], { symbol: "plus", stroke: "white", r: 6, strokeWidth: 2 }),
    ],
  }), `${kind} over a plane through the network`);
}

// Values along the curve and the straight line between two networks; the largest rise over their ends is marked.
function curveFigure(pair, kind, width) {
  const names = { curve: "curve", linear: "straight line" };
  const kinds = Object.keys(names).filter((name) => pair[name]?.[kind]?.every((value) => value !== null));
  const rows = kinds.flatMap((name) => pair[name].t.map((t, k) => ({ t, value: pair[name][kind][k], kind: names[name] })));
  const tops = kinds.map((name) => {
    const { t, [kind]: values } = pair[name];
    const rises = values.map((value, k) => value - ((1 - t[k]) * values[0] + t[k] * values.at(-1)));
    const k = d3.maxIndex(rises);
    return { t: t[k], value: values[k], rise: rises[k], kind: names[name] };
  }).filter((top) => top.rise > 0);
  if (!rows.length) return null;
  return described(Plot.plot({
    ...plain, width, height: 240, marginLeft: 50, x: { label: "t" }, y: { label: kind === "error" ? "error (%)" : kind, grid: true },
    color: { legend: true, domain: ["curve", "straight line"], range: ["var(--accent)", "#0072b2"] },
    marks: [
      Plot.lineY(rows, { x: "t", y: "value", stroke: "kind", marker: "dot" }),
      Plot.ruleX(tops, { x: "t", y1: (top) => top.value - top.rise, y2: "value", stroke: "kind", strokeDasharray: "3 3", strokeWidth: 1.5 }),
      Plot.text(tops, { x: "t", y: "value", text: (top) => `barrier ${format(top.rise, 3)}`, dy: -9, fill: "currentColor", stroke: "var(--ground)", strokeWidth: 4 }),
    ],
  }), `${kind} between two networks; ${tops.map((top) => `barrier on the ${top.kind} ${format(top.rise, 3)}`).join(", ") || "no barrier"}`);
}

function similarityFigure(pairs, number, width) {
  const cells = pairs.filter((pair) => pair.numbers[number] !== undefined)
    .flatMap((pair) => [[pair.a, pair.b], [pair.b, pair.a]].map(([a, b]) => ({ a, b, value: pair.numbers[number] })));
  if (!cells.length) return null;
  const short = (name) => (name.length > 12 ? `…${name.slice(-11)}` : name);
  const names = [...new Set(cells.map((cell) => cell.a))].sort();
  return described(Plot.plot({
    ...plain, width: Math.min(width, 120 + 84 * names.length), height: 90 + 54 * names.length, marginLeft: 92, marginBottom: 40,
    x: { label: null, domain: names, tickFormat: short }, y: { label: null, domain: names, tickFormat: short },
    color: { scheme: "viridis", label: number, legend: true },
    marks: [
      Plot.cell(cells, { x: "a", y: "b", fill: "value", inset: 1 }),
      Plot.text(cells, { x: "a", y: "b", text: (cell) => format(cell.value, 3), fill: "white", stroke: "rgba(0,0,0,.6)", strokeWidth: 3 }),
    ],
  }), `${number} between the networks: ${cells.map((cell) => format(cell.value, 3)).join(", ")}`);
}
