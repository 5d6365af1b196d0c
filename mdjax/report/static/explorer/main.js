// Starts all parts. What needs no scripts stays on the page until they run.

function drawPicked() {
  const holder = document.getElementById("picked");
  if (state.focus === null) {
    holder.replaceChildren();
    return;
  }
  const row = state.focus;
  const cause = columns.get("cause");
  const name = cause ? valueOf(cause, row) : null;
  const more = state.selected.size > 1 ? ` and ${state.selected.size - 1} more selected` : "";
  const disagreement = data.sweep?.disagreements[row];
  holder.replaceChildren(
    el("p", {}, link(row), more, name ? [": ", badge(name), `${name}; ${data.changes[name] ?? ""}.`] : ""),
    disagreement ? el("p", { className: "contrary" }, disagreement) : "",
  );
}

function start() {
  document.body.append(tip);
  document.getElementById("explore").hidden = false;
  for (const node of document.querySelectorAll(".name[data-row]")) node.replaceChildren(link(Number(node.dataset.row)));
  startMap();
  const built = startTable();
  startTrees();
  onChange(drawPicked);
  document.documentElement.classList.add("scripted");
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    if (!document.getElementById("all").hidden) drawMap();
    else followAddress();
  });
  window.addEventListener("hashchange", followAddress);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideTip();
  });
  return built.then(() => {
    followAddress();
    document.documentElement.dataset.ready = "yes";
  });
}

try {
  start();
} catch (error) {
  document.getElementById("explore").hidden = true;
  document.documentElement.classList.remove("scripted");
  throw error; // the browser tells it
}
