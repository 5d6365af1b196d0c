// The table of all configurations: sorted, filtered, searched and saved; rows are drawn as they come into sight.

let rowsTable = null;
let searched = "";
let onlySelected = false;
let haystack = [];

// Spreadsheets take a text that begins so for a formula; one more quote before it says that it is a text.
const formula = /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;

function neutral(value) {
  return typeof value === "string" && formula.test(value) ? `'${value}` : value;
}

// A condition on numbers, as ">5", "<=3" or "2..8"; null for what is none.
function condition(text) {
  const plain = text.replaceAll("−", "-").replaceAll(/\s/g, "");
  const number = "(-?(?:\\d+\\.?\\d*|\\.\\d+)(?:e[+-]?\\d+)?)";
  const span = new RegExp(`^${number}(?:\\.\\.|–)${number}$`, "i").exec(plain);
  if (span) return (value) => value >= Number(span[1]) && value <= Number(span[2]);
  const compared = new RegExp(`^(>=|<=|>|<|=)?${number}$`, "i").exec(plain);
  if (!compared) return null;
  const [, sign = "=", bound] = compared;
  const limit = Number(bound);
  return {
    ">": (value) => value > limit, "<": (value) => value < limit, ">=": (value) => value >= limit,
    "<=": (value) => value <= limit, "=": (value) => value === limit,
  }[sign];
}

function numberFilter(text, value) {
  const holds = condition(text);
  return holds === null || (value !== null && holds(value));
}

function filterOf(column) {
  if (column.kind === "number") {
    return {
      headerFilter: "input", headerFilterFunc: numberFilter, headerFilterPlaceholder: ">1, 2..8",
    };
  }
  return {
    headerFilter: (cell, rendered, success) => {
      const menu = el("select", { onchange: () => success(menu.value) }, el("option", { value: "" }, "all"),
        column.levels.length <= 60 ? column.levels.map((level) => el("option", { value: level }, level)) : []);
      menu.setAttribute("aria-label", `filter ${column.title}`);
      if (column.levels.length <= 60) return menu;
      const input = el("input", { type: "search", oninput: () => success(input.value), placeholder: "contains" });
      return input;
    },
    headerFilterFunc: (text, value) => column.levels.length <= 60
      ? text === value : String(value ?? "").toLowerCase().includes(text.toLowerCase()),
    headerFilterLiveFilter: false,
  };
}

function tableColumns() {
  const hidden = ["probability", "note"];
  const rank = { verdict: 0, setting: 1, feature: 2, sweep: 3, compared: 4, probability: 5, note: 6 };
  const order = d3.sort(data.columns, (column) => rank[column.group]);
  const name = {
    title: "Configuration", titleFormatter: () => document.createTextNode("Configuration"), field: "name",
    frozen: window.innerWidth > 700, minWidth: 150, width: window.innerWidth > 700 ? 230 : 165,
    formatter: (cell) => link(cell.getData().id), headerFilter: "input", headerFilterPlaceholder: "contains",
    headerFilterFunc: (text, value) => value.toLowerCase().includes(text.toLowerCase()),
    accessorDownload: neutral, titleDownload: "configuration",
  };
  const found = [name];
  for (const column of order) {
    const field = `c${data.columns.indexOf(column)}`;
    const varied = column.group !== "setting" || column.axis;
    const isNumber = column.kind === "number";
    found.push({
      title: labelOf(column), titleFormatter: () => document.createTextNode(labelOf(column)), field,
      visible: varied && !hidden.includes(column.group) && column.drawn !== false,
      hozAlign: isNumber ? "right" : "left", headerHozAlign: isNumber ? "right" : "left",
      width: isNumber ? Math.max(106, 44 + 8 * d3.max(labelOf(column).split(" "), (word) => word.length)) : column.key === "cause" ? 190 : 150,
      sorter: isNumber ? "number" : "string", sorterParams: { alignEmptyValues: "bottom" },
      headerSortStartingDir: isNumber ? "desc" : "asc",
      formatter: (cell) => {
        const value = cell.getValue();
        if (isNumber) return document.createTextNode(told(column, cell.getData().id));
        return el("span", {}, badge(value), value ?? "–");
      },
      download: true, titleDownload: column.key, accessorDownload: isNumber ? undefined : neutral,
      ...filterOf(column),
    });
    if (column.errors) {
      found.push({ title: `${column.key}_se`, field: `${field}e`, visible: false, download: true, titleDownload: `${column.key}_se` });
    }
  }
  return found;
}

function tableRows() {
  return everyRow.map((row) => {
    const found = { id: row, name: data.names[row] };
    data.columns.forEach((column, k) => {
      found[`c${k}`] = valueOf(column, row);
      if (column.errors) found[`c${k}e`] = column.errors[row];
    });
    return found;
  });
}

function applyFilters() {
  rowsTable.setFilter((row) => (!onlySelected || state.selected.has(row.id)) && (!searched || haystack[row.id].includes(searched)));
}

function tellCount() {
  const shown = state.shown ? state.shown.size : size;
  const selected = state.selected.size ? `, ${state.selected.size.toLocaleString("en-US")} selected` : "";
  document.getElementById("counted").textContent = `${shown.toLocaleString("en-US")} of ${count(size, "configuration")}${selected}`;
}

function startTable() {
  const texts = data.columns.filter((column) => column.kind === "level");
  haystack = everyRow.map((row) => [data.names[row], ...texts.map((column) => valueOf(column, row) ?? "")].join("\n").toLowerCase());
  const expected = data.columns.findIndex((column) => column.key === "expected");
  rowsTable = new Tabulator("#rows", {
    data: tableRows(), columns: tableColumns(), index: "id", layout: "fitData", selectableRows: "highlight",
    height: size > 12 ? "30rem" : undefined, columnDefaults: { headerWordWrap: true, headerTooltip: false },
    initialSort: expected >= 0 ? [{ column: `c${expected}`, dir: "desc" }] : [],
    placeholder: "No configuration is left by the filters.",
  });
  rowsTable.on("rowClick", (event, row) => {
    if (event.target.closest("a")) return;
    const own = row.getIndex();
    const isAlone = state.selected.size === 1 && state.selected.has(own);
    select([own], event.ctrlKey || event.shiftKey || event.metaKey || isAlone);
  });
  rowsTable.on("rowMouseEnter", (event, row) => hoverCell(row.getIndex(), true));
  rowsTable.on("rowMouseLeave", (event, row) => hoverCell(row.getIndex(), false));
  rowsTable.on("dataFiltered", (filters, rows) => {
    state.shown = rows.length === size ? null : new Set(rows.map((row) => row.getIndex()));
    tellCount();
    changed("filter");
  });
  const search = document.getElementById("search");
  search.addEventListener("input", () => {
    searched = search.value.trim().toLowerCase();
    applyFilters();
  });
  const toggle = document.getElementById("show-selected");
  toggle.addEventListener("click", () => {
    onlySelected = !onlySelected;
    toggle.setAttribute("aria-pressed", String(onlySelected));
    applyFilters();
  });
  document.getElementById("clear").addEventListener("click", () => {
    onlySelected = false;
    searched = search.value = "";
    toggle.setAttribute("aria-pressed", "false");
    rowsTable.clearHeaderFilter();
    applyFilters();
    select([]);
  });
  document.getElementById("save").addEventListener("click", () => {
    rowsTable.download("csv", "configurations.csv", {}, state.selected.size ? "selected" : "active");
  });
  onChange((what) => {
    if (what !== "selection") return;
    rowsTable.deselectRow();
    if (state.selected.size) rowsTable.selectRow([...state.selected]);
    tellCount();
    if (onlySelected) applyFilters();
    if (state.focus !== null && state.selected.size <= 50) {
      rowsTable.scrollToRow(state.focus, "nearest", false).catch(() => {}); // filtered away
    }
  });
  return new Promise((resolve) => rowsTable.on("tableBuilt", () => {
    tellCount();
    resolve();
  }));
}

function hoverCell(row, isOn) {
  mapShapes().filter((index) => drawnCells[index].rows.includes(row)).classed("hovered", isOn);
}
