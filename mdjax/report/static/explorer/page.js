// A page of one configuration, which its name in the address calls up.

let readAt = 0; // how far the page of all was scrolled

// The steps of one answer: measured values against thresholds, on the way to the leaf.
function stepsOf(answers, row) {
  if (answers.leaf[row] < 0) return [];
  const tree = data.trees[answers.tree[row]];
  return tree.leaves[answers.leaf[row]].path.map(([split, side]) => {
    const node = tree.nodes[split];
    const quantity = data.quantities[node.feature];
    const source = quantity.values ? quantity : columns.get(node.feature);
    const flags = data.flags.filter((flag) => flag.feature === node.feature && flag.rows.includes(row)).map((flag) => flag.text);
    return {
      title: quantity.title, text: quantity.text, value: source.values[row], error: source.errors ? source.errors[row] : null,
      threshold: node.threshold, interval: node.interval, side, flags, others: source.values,
    };
  });
}

function evidenceOf(answers, row, width) {
  const parts = [el("h3", {}, answers.text)];
  const tree = answers.tree[row] < 0 ? null : data.trees[answers.tree[row]];
  const meaning = valueOf(answers.meaning, row);
  const status = valueOf(answers.status, row);
  if (answers.leaf[row] < 0 || !tree) return [...parts, el("p", {}, `No answer: ${status}.`)];
  const counts = Object.entries(tree.leaves[answers.leaf[row]].counts).map(([label, rows]) => `${rows} ${label}`).join(", ");
  const note = `${status === "ok" ? "" : `; ${status}`}${tree.single ? "; by the tree for single models" : ""}`;
  parts.push(el("p", {}, `${meaning}, probability ${format(answers.probability[row], 2)} (rows grown on: ${counts}${note}).`));
  for (const step of stepsOf(answers, row)) {
    const side = step.side ? "at or below" : "above";
    const error = step.error ? ` ± ${format(step.error, 2)}` : "";
    const text = step.value === null
      ? `${step.title} was not measured; training rows mostly lie ${side} ${format(step.threshold)}.`
      : `${step.title}: ${format(step.value)}${error} is ${side} the threshold ${format(step.threshold)}` +
        `${step.interval ? `, which is believed to lie from ${format(step.interval[0], 3)} to ${format(step.interval[1], 3)}` : ""}.` +
        `${step.text ? ` (${step.text})` : ""}`;
    parts.push(el("p", { className: "step" }, text, step.flags.map((flag) => el("span", { className: "flag" }, ` ${flag}`))));
    parts.push(evidenceFigure(step, step.others, width));
  }
  return parts;
}

function evidenceOfAll(row, width) {
  if (!data.answers.length || data.answers[0].held_back.includes(row)) return [el("p", { className: "soft" }, "The trees were not asked.")];
  const note = data.answers[0].overruled.includes(row)
    ? [el("p", { className: "soft" }, "The verdict is the calibration's. What its trees alone answer, which may be something else:")] : [];
  return [...note, el("div", { className: "pair" }, data.answers.map((answers) => el("div", {}, evidenceOf(answers, row, width))))];
}

function verdictOf(row) {
  const cause = columns.get("cause");
  if (!cause) return [el("p", {}, "No diagnosis: the table has none of the features that the trees read.")];
  const name = valueOf(cause, row);
  const probability = valueOf(columns.get("probability"), row);
  const isCause = data.causes.some((one) => one.name === name);
  const lines = [
    el("p", { className: "cause" }, badge(name), name, isCause && probability !== null ? `, probability ${format(probability, 2)}` : ""),
    el("p", {}, `What to change: ${data.changes[name] ?? "–"}.`),
    ...(data.stages[row] ?? []).map((text) => el("p", {}, `${text}.`)),
  ];
  const weighed = data.causes.map((one) => [one.name, valueOf(columns.get(one.key), row)]).filter(([, value]) => value !== null);
  if (weighed.length) lines.push(el("p", { className: "soft" }, `Causes weighed: ${weighed.map(([one, value]) => `${one} ${format(value, 2)}`).join("; ")}.`));
  const status = valueOf(columns.get("status"), row);
  if (status !== "ok") lines.push(el("p", {}, `Status: ${status}.`));
  const flags = valueOf(columns.get("flags"), row);
  if (flags) lines.push(el("p", {}, `Caution: ${flags}.`));
  if (columns.has("other:cause")) lines.push(el("p", {}, `Verdict of ${data.comparison}: ${valueOf(columns.get("other:cause"), row) ?? "none"}.`));
  return [el("div", { className: "verdict" }, lines)];
}

function gainsOf(row, width) {
  const parts = [];
  if (data.calibration) {
    const whyNot = valueOf(data.calibration.why_not, row);
    const entries = data.calibration.steps.map((text, k) => ({ text, points: data.calibration.one[k][row], error: data.calibration.one_se[k][row] }))
      .filter((entry) => entry.points !== null);
    if (entries.length) {
      parts.push(figure("What one step of each change is expected to bring", gainsFigure(d3.sort(entries, (entry) => -entry.points), width),
        "By small networks of this task; bars of error are two standard deviations."));
    } else if (whyNot) parts.push(el("p", {}, `The calibration does not speak of this configuration: ${whyNot}.`));
  }
  if (data.sweep) {
    const entries = data.sweep.changes.map((change) => ({ text: change.text, points: columns.get(change.key).values[row] })).filter((entry) => entry.points !== null);
    if (entries.length) parts.push(figure("What each change gained at best in the sweep itself", gainsFigure(d3.sort(entries, (entry) => -entry.points), width)));
    if (data.sweep.disagreements[row]) parts.push(el("p", { className: "contrary" }, data.sweep.disagreements[row]));
  }
  return parts;
}

// The nearest configurations along each axis, all other settings being equal.
function neighboursOf(row) {
  const settings = data.columns.filter((column) => column.axis && column.key !== "num_params");
  const found = [];
  for (const axis of settings) {
    const own = valueOf(axis, row);
    const alike = everyRow.filter((other) => other !== row && valueOf(axis, other) !== null
      && settings.every((column) => column === axis || valueOf(column, other) === valueOf(column, row)));
    const sides = axis.kind === "number"
      ? [d3.greatest(alike.filter((other) => valueOf(axis, other) < own), (a, b) => d3.ascending(valueOf(axis, a), valueOf(axis, b))),
        d3.least(alike.filter((other) => valueOf(axis, other) > own), (a, b) => d3.ascending(valueOf(axis, a), valueOf(axis, b)))]
      : alike.slice(0, 4);
    for (const other of sides.filter((one) => one !== undefined)) found.push({ axis, other });
  }
  return found;
}

function neighboursTable(row) {
  const found = neighboursOf(row);
  if (!found.length) return [el("p", { className: "soft" }, "No other configuration differs from this one in one setting alone.")];
  const errors = columns.get("test_error");
  const accuracy = data.sweep?.accuracy ?? (errors ? errors.values.map((value) => (value === null ? null : 100 - value)) : null);
  const head = ["Setting", "Here", "There", "Gained there (points)", "Test error there (%)", "Verdict there", "Configuration"];
  return [el("div", { className: "scroll", tabIndex: 0 }, el("table", { className: "neighbours" },
    el("thead", {}, el("tr", {}, head.map((text) => el("th", {}, text)))),
    el("tbody", {}, found.map(({ axis, other }) => {
      const gained = accuracy && accuracy[other] !== null && accuracy[row] !== null ? accuracy[other] - accuracy[row] : null;
      const cause = columns.get("cause");
      return el("tr", {}, [
        el("th", {}, labelOf(axis)), el("td", {}, format(valueOf(axis, row))), el("td", {}, format(valueOf(axis, other))),
        el("td", { className: "num" }, signed(gained)), el("td", { className: "num" }, errors ? told(errors, other, 3) : "–"),
        el("td", {}, cause ? [badge(valueOf(cause, other)), valueOf(cause, other)] : "–"), el("td", {}, link(other)),
      ]);
    }))))];
}

function measuredOf(row, width) {
  const found = data.details.rows[row];
  if (!found) {
    return data.details.left_out
      ? [el("p", { className: "soft" }, "Its spectra and curves are left out of this page, which has room for those with most to gain; 'mdjax report TABLE --configuration NAME' draws them.")]
      : [];
  }
  const parts = [];
  for (const model of found.models) {
    const draw = [];
    if (model.density) draw.push(figure("Spectral density of the Hessian", densityFigure(model.density, width), "With a band of two standard errors."));
    if (model.spectrum) draw.push(figure(`Eigenvalues of the ${model.spectrum.matrix}`, spectrumFigure(model.spectrum, width)));
    if (model.layers) draw.push(figure("Curvature by layer", layersFigure(model.layers, width)));
    for (const kind of ["loss", "error"]) {
      if (model.surface?.[kind]) draw.push(figure(`${kind === "loss" ? "Loss" : "Error (%)"} around the network`, surfaceFigure(model.surface, kind, width)));
    }
    const numbers = Object.entries(model.numbers).map(([name, value]) => `${name.replaceAll("_", " ")} ${format(value)}`).join(", ");
    const told_ = [numbers, model.status].filter(Boolean).join("; ");
    // Networks after the first are folded away.
    parts.push(el("details", { open: model === found.models[0] }, el("summary", {}, `${model.id}: ${told_}`), el("div", { className: "pair" }, draw)));
  }
  const between = found.pairs.flatMap((pair) => ["error", "loss"].map((kind) => {
    const chart = curveFigure(pair, kind, width);
    return chart && figure(`${kind === "error" ? "Error (%)" : "Loss"} between ${pair.a} and ${pair.b}`, chart);
  }));
  const numbers = [...new Set(found.pairs.flatMap((pair) => Object.keys(pair.numbers)))].filter((name) => ["CKA", "agreement"].includes(name));
  const matrices = numbers.map((number) => {
    const chart = similarityFigure(found.pairs, number, width);
    return chart && figure(`${number} between its networks`, chart);
  });
  return [el("h2", {}, "Measured of its networks"), ...parts, el("div", { className: "pair" }, [...between, ...matrices].filter(Boolean))];
}

function numbersOf(row) {
  const shown = data.columns.filter((column) => ["setting", "feature", "compared"].includes(column.group));
  return el("dl", { className: "numbers" }, shown.map((column) => el("div", {}, el("dt", {}, labelOf(column)), el("dd", {}, told(column, row)))));
}

function drawPage(row) {
  const holder = document.getElementById("page");
  // Figures stand beside each other where there is room.
  const width = Math.floor(Math.max(280, Math.min(620, holder.clientWidth > 880 ? (holder.clientWidth - 24) / 2 : holder.clientWidth)));
  const steps = [-1, 1].map((way) => {
    const order = rowsTable.getRows("active").map((one) => one.getIndex());
    const next = order[order.indexOf(row) + way];
    return next === undefined ? null : link(next, way < 0 ? "← the one before" : "the next one →");
  });
  holder.replaceChildren(
    el("nav", {}, el("a", { href: "#explore" }, "← all configurations"), el("span", {}, steps[0] ?? "", " ", steps[1] ?? "")),
    el("h1", {}, data.names[row]),
    ...verdictOf(row),
    el("h2", {}, "What it could gain"),
    ...gainsOf(row, width),
    el("h3", {}, "Its neighbours in the sweep"),
    ...neighboursTable(row),
    el("h2", {}, "Evidence"),
    ...evidenceOfAll(row, width),
    el("h2", {}, "All its numbers"),
    numbersOf(row),
    ...measuredOf(row, width),
  );
}

function followAddress() {
  const row = rowAt(location.hash);
  const all = document.getElementById("all");
  const page = document.getElementById("page");
  const header = document.querySelector("header");
  hideTip();
  if (row === null) {
    const wasOpen = !page.hidden;
    [all.hidden, header.hidden, page.hidden] = [false, false, true];
    document.title = data.title;
    if (wasOpen) {
      drawMap();
      window.scrollTo(0, readAt);
    }
    return;
  }
  if (page.hidden) readAt = window.scrollY;
  [all.hidden, header.hidden, page.hidden] = [true, true, false];
  document.title = `${data.names[row]} · ${data.title}`;
  drawPage(row);
  window.scrollTo(0, 0);
  page.focus({ preventScroll: true });
}
