// The trees: how many configurations take each branch, and the way of the one that is looked at.

// What of a row goes through a tree: the branches [split, side] and the leaf; null where the tree does not speak of it.
function wayOf(tree, row) {
  const answers = data.answers.find((one) => data.trees[one.tree[row]] === tree);
  if (!answers || answers.leaf[row] < 0) return null;
  return { leaf: answers.leaf[row], path: tree.leaves[answers.leaf[row]].path };
}

function partsOf(tree, rows, focus) {
  const through = new Map(); // "split side" → number of rows
  const reached = tree.leaves.map(() => 0);
  for (const row of rows) {
    const way = wayOf(tree, row);
    if (!way) continue;
    reached[way.leaf] += 1;
    for (const [split, side] of way.path) through.set(`${split} ${side}`, (through.get(`${split} ${side}`) ?? 0) + 1);
  }
  const own = focus === null ? null : wayOf(tree, focus);
  const taken = new Set(own ? own.path.map(([split, side]) => `${split} ${side}`) : []);
  const links = new Map();
  tree.leaves.forEach((leaf, k) => {
    leaf.path.forEach(([split, side], step) => {
      const next = leaf.path[step + 1];
      const end = next ? tree.nodes[next[0]] : leaf;
      const key = `${split} ${side}`;
      links.set(key, { from: tree.nodes[split], to: end, side, key, rows: through.get(key) ?? 0, taken: taken.has(key) });
    });
  });
  const boxes = [
    ...tree.nodes.map((node, i) => ({ ...node, key: `split ${i}`, taken: own?.path.some(([split]) => split === i) ?? false,
      fill: "var(--panel)", text: `${node.title}\n≤ ${format(node.threshold)} ?` })),
    ...tree.leaves.map((leaf, k) => ({ ...leaf, key: `leaf ${k}`, taken: own?.leaf === k,
      fill: `color-mix(in srgb, ${data.marks[leaf.meaning]?.colour ?? "#888"} 35%, var(--ground))`,
      text: `${leaf.meaning}\n${reached[k].toLocaleString("en-US")} here` })),
  ];
  return { links: [...links.values()], boxes };
}

function drawTree(tree, rows, focus) {
  const { links, boxes } = partsOf(tree, rows, focus);
  const wide = tree.leaves.length * 122;
  const deep = -d3.min(boxes, (box) => box.y);
  const widest = d3.max(links, (one) => one.rows) || 1;
  const font = 11;
  const chart = Plot.plot({
    width: wide, height: 96 * (deep + 1), margin: 0, axis: null,
    x: { domain: [-0.5, tree.leaves.length - 0.5] }, y: { domain: [-deep - 0.5, 0.5] },
    style: { fontSize: `${font}px`, background: "none" },
    marks: [
      Plot.link(links, { x1: (one) => one.from.x, y1: (one) => one.from.y, x2: (one) => one.to.x, y2: (one) => one.to.y,
        stroke: (one) => (one.taken ? "var(--accent)" : "var(--soft)"), strokeOpacity: (one) => (one.taken ? 1 : 0.55),
        strokeWidth: (one) => Math.max(one.taken ? 3 : 1, (8 * one.rows) / widest) }),
      Plot.text(links, { x: (one) => one.from.x + 0.5 * (one.to.x - one.from.x), y: (one) => one.from.y + 0.5 * (one.to.y - one.from.y),
        text: (one) => `${one.side ? "yes" : "no"} · ${one.rows.toLocaleString("en-US")}`, fill: "currentColor", stroke: "var(--ground)", strokeWidth: 4 }),
      Plot.rect(boxes, { x1: (box) => box.x - 0.46, x2: (box) => box.x + 0.46, y1: (box) => box.y - 0.31, y2: (box) => box.y + 0.31,
        fill: (box) => box.fill, stroke: (box) => (box.taken ? "var(--accent)" : "var(--soft)"),
        strokeWidth: (box) => (box.taken ? 2.5 : 1), rx: 5 }),
      Plot.text(boxes, { x: "x", y: "y", text: "text", lineWidth: 9.6, fill: "currentColor", pointerEvents: "none" }),
    ],
  });
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", "Decision tree; the evidence of each configuration is on its page as text");
  d3.select(chart).selectAll("g[aria-label='link'] path").classed("taken", (index) => links[index].taken);
  d3.select(chart).selectAll("g[aria-label='rect'] rect").style("cursor", "pointer").on("click", (event, index) => {
    const [kind, number] = boxes[index].key.split(" ");
    const wanted = everyRow.filter((row) => {
      const way = wayOf(tree, row);
      return way && (kind === "leaf" ? way.leaf === Number(number) : way.path.some(([split]) => split === Number(number)));
    });
    select(wanted, event.ctrlKey || event.shiftKey || event.metaKey);
  });
  return chart;
}

function treeTitle(tree) {
  const answers = data.answers.find((one) => one.question === tree.question);
  return `${answers ? answers.text : tree.question}${tree.single ? " (tree for single models)" : ""}`;
}

function drawTrees() {
  const rows = activeRows();
  document.getElementById("trees").replaceChildren(...data.trees.map((tree) =>
    el("figure", {}, el("figcaption", {}, treeTitle(tree)), el("div", { className: "scroll", tabIndex: 0 }, drawTree(tree, rows, state.focus)))));
}

function startTrees() {
  if (!data.trees.length) {
    document.getElementById("trees").replaceChildren(el("p", { className: "soft" }, "No tree has anything to read in this table."));
    return;
  }
  drawTrees();
  let waiting = false; // once for all changes of a moment
  onChange(() => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawTrees();
    });
  });
}
