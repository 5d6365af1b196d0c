// What is told of configurations under the pointer.

const tip = el("div", { id: "tip", role: "tooltip", hidden: true });

const tipGroups = ["setting", "feature", "sweep", "compared"];

function tipOf(rows) {
  if (rows.length > 1) return tipOfSeveral(rows);
  const row = rows[0];
  const cause = columns.get("cause");
  const lines = [el("b", {}, data.names[row])];
  if (cause) {
    const probability = valueOf(columns.get("probability"), row);
    const expected = columns.get("expected");
    const name = valueOf(cause, row);
    lines.push(
      el("p", { className: "cause" }, badge(name), name, probability === null ? "" : `, probability ${format(probability, 2)}`),
    );
    if (expected && valueOf(expected, row) !== null) {
      lines.push(el("p", {}, `Gain to expect: ${format(valueOf(expected, row), 3)} points`));
    }
  }
  const told_ = data.columns.filter((column) => tipGroups.includes(column.group) && (column.group !== "setting" || column.axis));
  lines.push(
    el("table", {}, told_.map((column) => el("tr", {}, el("th", {}, labelOf(column)), el("td", {}, told(column, row))))),
  );
  const weighed = data.causes.filter((one) => columns.has(one.key) && valueOf(columns.get(one.key), row) !== null);
  if (weighed.length) {
    lines.push(
      el("table", { className: "weighed" }, weighed.map((one) => {
        const probability = valueOf(columns.get(one.key), row);
        const bar = el("span", { style: { width: `${100 * probability}%`, background: data.marks[one.name].colour } });
        return el("tr", {}, el("th", {}, one.name), el("td", {}, bar), el("td", {}, format(probability, 2)));
      })),
    );
  }
  return lines;
}

function tipOfSeveral(rows) {
  const lines = [el("b", {}, count(rows.length, "configuration"))];
  const cause = columns.get("cause");
  if (cause) {
    for (const [name, number] of d3.sort(d3.rollups(rows, (found) => found.length, (row) => valueOf(cause, row)), (one) => -one[1])) {
      lines.push(el("p", {}, badge(name), `${name}: ${number}`));
    }
  }
  const averaged = data.columns.filter((column) => column.group === "feature");
  lines.push(
    el("table", {}, averaged.map((column) =>
      el("tr", {}, el("th", {}, `${labelOf(column)}, mean`), el("td", {}, format(d3.mean(rows, (row) => column.values[row]) ?? null))))),
  );
  return lines;
}

function showTip(rows, event) {
  tip.replaceChildren(...tipOf(rows));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const right = event.clientX + 16 + width < window.innerWidth;
  tip.style.left = `${Math.max(4, right ? event.clientX + 16 : event.clientX - 16 - width)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 12, window.innerHeight - height - 4))}px`;
}

function hideTip() {
  tip.hidden = true;
}
