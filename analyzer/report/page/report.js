"use strict";
(() => {
  const given = JSON.parse(document.getElementById("data").textContent);
  const bytes = (count) => {
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let amount = Number(count), k = 0;
    while (Math.abs(amount) >= 1024 && k < units.length - 1) { amount /= 1024; k += 1; }
    const digits = k === 0 || Number.isInteger(amount) ? 0 : Math.abs(amount) < 10 ? 2 : Math.abs(amount) < 100 ? 1 : 0;
    return `${amount.toFixed(digits).replace("-", "−")} ${units[k]}`;
  };
  // Days by their date, years by their number, and between them the hour of 24: all UTC.
  const day = (time) => {
    const date = new Date(Number(time)), text = date.toISOString();
    if (date.getTime() % 86400000) return text.slice(11, date.getTime() % 60000 ? 19 : 16);
    if (text.slice(5, 10) === "01-01") return text.slice(0, 4);
    return date.toLocaleDateString("en", { month: "short", day: "2-digit", timeZone: "UTC" });
  };
  const when = (time) => new Date(Number(time)).toISOString().slice(0, 16).replace("T", " ");
  const rows = (columns) => columns.flatMap(({ time, free, ...rest }) =>
    time.map((at, k) => (free ? { ...rest, time: at, free: free[k] } : { ...rest, time: at })));

  // Columns in the file, rows for the charts.
  const viewOf = Object.fromEntries(given.names.map((row) => [`${row.view}\n${row.rank}`, row.image]));
  const usesOf = new Map(given.uses.map((row) => [row.image, row.time]));
  const datasets = {
    free: rows(given.free), marks: rows(given.marks), gaps: given.gaps, levels: given.levels, policies: given.policies,
    names: given.names,
    stays: given.stays.map((row) => ({ ...row, image: viewOf[`${row.view}\n${row.rank}`] })),
    uses: given.names.flatMap(({ view, rank, number }) => usesOf.get(number).map((time) => ({ view, rank, time }))),
  };

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const palette = () => [0, 1, 2, 3, 4, 5, 6].map((k) => css(`--c${k}`));
  const colours = {
    free: () => { const all = palette(); return given.series.map((_, k) => all[(k + given.offset) % all.length]); },
    tradeoff: () => [css("--c3"), css("--c1"), css("--c2")],
    images: () => [css("--soft"), css("--c1"), css("--c2")],
  };
  const look = (name) => ({
    background: "transparent", padding: { left: 0, right: 8, top: 6, bottom: 4 },
    font: getComputedStyle(document.body).fontFamily, customFormatTypes: true,
    view: { stroke: null },
    axis: {
      labelColor: css("--soft"), titleColor: css("--soft"), gridColor: css("--grid"), domainColor: css("--line"),
      tickColor: css("--line"), labelFontSize: 11, titleFontSize: 12, titleFontWeight: "normal", labelOverlap: true, labelSeparation: 12,
    },
    legend: { labelColor: css("--ink"), labelFontSize: 12, symbolSize: 90 },
    text: { color: css("--ink") },
    style: { halo: { fill: css("--paper"), stroke: css("--paper"), strokeWidth: 4, strokeJoin: "round" }, words: { fill: css("--ink") }, ring: { stroke: css("--ink") } },
    range: { category: colours[name.split("-")[0]]() },
  });

  const state = { shown: given.shown.slice(), view: given.names.length ? given.names[0].view : null };

  const fitted = (spec, width) => {
    const made = structuredClone(spec);
    for (const part of [made, ...(made.vconcat || [])]) if (part.width === "container") part.width = width;
    if (made.vconcat) for (const part of made.vconcat) part.width = width - 64;
    made.autosize = made.vconcat ? "pad" : { type: "fit-x", contains: "padding" };
    return made;
  };

  const views = {};
  const draw = async (name) => {
    const place = document.getElementById(`chart-${name}`);
    if (!place) return;
    const label = place.getAttribute("aria-label");
    const spec = fitted(given.specs[name], Math.max(240, Math.floor(place.clientWidth) - 10));
    const { view } = await vegaEmbed(place, { ...spec, datasets: { ...datasets, ...given.own?.[name] } }, {
      renderer: "svg", actions: false, ast: true, config: look(name), expressionFunctions: { bytes, day, when },
      logLevel: 1, tooltip: { theme: "custom" },
    });
    if (views[name]) views[name].finalize();
    views[name] = view;
    // Vega says only that it drew: what it drew is ours to say, and its marks are for the eye.
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", label);
    place.removeAttribute("aria-roledescription");
    place.querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-hidden", "true"));
    if (name === "free") { view.signal("shown", state.shown); await view.runAsync(); }
    if (name === "images" && state.view) { view.signal("view", state.view); await view.runAsync(); }
  };
  const drawAll = async () => {
    for (const name of Object.keys(given.specs)) await draw(name);
    document.documentElement.dataset.ready = "yes";
  };

  // Which lines are shown.
  for (const box of document.querySelectorAll("input[name=series]")) {
    box.addEventListener("change", async () => {
      state.shown = [...document.querySelectorAll("input[name=series]:checked")].map((one) => one.value);
      views.free.signal("shown", state.shown);
      await views.free.runAsync();
    });
  }

  // Which part of the time is shown: what the brush does, for the keyboard.
  const zoom = async (from, until) => {
    const brush = given.specs.free.params.find((param) => param.name === "brush");
    if (from === null) delete brush.value;
    else brush.value = { x: [Math.max(given.begin, from), Math.min(given.end, until)] };
    await draw("free");
  };
  const lowest = () => given.free.filter((line) => state.shown.includes(line.series))
    .map((line) => line.free.reduce((best, value, k) => (value < line.free[best] ? k : best), 0))
    .map((k, n) => ({ k, line: given.free.filter((line) => state.shown.includes(line.series))[n] }))
    .reduce((best, one) => (!best || one.line.free[one.k] < best.line.free[best.k] ? one : best), null);
  for (const button of document.querySelectorAll("button[data-zoom]")) {
    button.addEventListener("click", () => {
      const day = 86400000;
      if (button.dataset.zoom === "all") return zoom(null, null);
      if (button.dataset.zoom === "worst") {
        const worst = lowest();
        return worst && zoom(worst.line.time[worst.k] - 3 * day, worst.line.time[worst.k] + 3 * day);
      }
      return zoom(given.end - Number(button.dataset.zoom) * day, given.end);
    });
  }

  // Which images are shown.
  const select = document.getElementById("view");
  if (select) {
    select.addEventListener("change", async () => {
      state.view = select.value;
      for (const table of document.querySelectorAll("[data-view]")) table.hidden = table.dataset.view !== state.view;
      views.images.signal("view", state.view);
      await views.images.runAsync();
    });
  }

  // Tables that sort.
  for (const button of document.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = button.closest("table").tBodies[0];
      const column = [...head.parentNode.children].indexOf(head);
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const one of head.parentNode.children) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const value = (row) => { const text = row.children[column].dataset.value ?? row.children[column].textContent; return text === "" || isNaN(text) ? text : Number(text); };
      const sorted = [...body.rows].sort((a, b) => { const x = value(a), y = value(b); return x < y ? -1 : x > y ? 1 : 0; });
      body.append(...(falling ? sorted.reverse() : sorted));
    });
  }

  // Another width, another light, another medium.
  let due, drawnWidth = document.body.clientWidth;
  addEventListener("resize", () => {
    clearTimeout(due);
    due = setTimeout(() => { if (document.body.clientWidth !== drawnWidth) { drawnWidth = document.body.clientWidth; drawAll(); } }, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
  drawAll();
})();
