"use strict";
// What every report page has: charts, sorting tables, another width, another light. Other scripts add to `page`.
const page = (() => {
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
  const datasets = { policies: given.policies, levels: given.levels, gaps: given.gaps };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colours = {
    free: () => given.colours.map((number) => css(`--c${number}`)),
    tradeoff: () => [css("--c3"), css("--c1"), css("--c2")],
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

  const fitted = (spec, width) => {
    const made = structuredClone(spec);
    for (const part of [made, ...(made.vconcat || [])]) if (part.width === "container") part.width = width;
    if (made.vconcat) for (const part of made.vconcat) part.width = width - 64;
    made.autosize = made.vconcat ? "pad" : { type: "fit-x", contains: "padding" };
    return made;
  };

  const views = {}, drawn = {};
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
    if (drawn[name]) await drawn[name](view);
  };
  // Of a fleet there is a chart for each host: it is drawn when it comes near.
  const place = (name) => document.getElementById(`chart-${name}`);
  const names = Object.keys(given.specs), waiting = new Set(names.filter((name) => place(name)?.closest(".many")));
  const near = new IntersectionObserver((seen) => {
    for (const one of seen) if (one.isIntersecting) { near.unobserve(one.target); drawNow(one.target.id.slice("chart-".length)); }
  }, { rootMargin: "600px" });
  const drawNow = async (name) => { if (waiting.delete(name)) await draw(name); };
  addEventListener("beforeprint", () => waiting.forEach(drawNow));
  const drawAll = async () => {
    for (const name of names) if (!waiting.has(name)) await draw(name);
    for (const name of waiting) near.observe(place(name));
    document.documentElement.dataset.ready = "yes";
    dispatchEvent(new Event("report-drawn"));
  };

  // Tables that sort. What is folded is opened first: its row stands for no figure of its own.
  const open = (button) => {
    const row = button.closest("tr"), shown = button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(shown));
    let next = row.nextElementSibling;
    for (let k = 0; k < Number(button.dataset.opens); k += 1, next = next.nextElementSibling) next.hidden = !shown;
  };
  const unfold = (body) => {
    for (const button of body.querySelectorAll("button.fold")) button.closest("tr").remove();
    for (const row of body.rows) row.hidden = false;
  };
  document.addEventListener("click", (event) => {
    const fold = event.target.closest("button.fold");
    if (fold) open(fold);
  });
  for (const button of document.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = button.closest("table").tBodies[0];
      const column = [...head.parentNode.children].indexOf(head);
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const one of head.parentNode.children) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      unfold(body);
      const value = (row) => { const text = row.children[column].dataset.value ?? row.children[column].textContent; return text === "" || isNaN(text) ? text : Number(text); };
      const sorted = [...body.rows].sort((a, b) => { const x = value(a), y = value(b); return x < y ? -1 : x > y ? 1 : 0; });
      body.append(...(falling ? sorted.reverse() : sorted));
    });
  }

  // What was packed: deflated, in base 64.
  const unpack = async (text) => {
    const packed = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
    return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  };

  // Another width, another light, another medium.
  let due, width = document.body.clientWidth;
  addEventListener("resize", () => {
    clearTimeout(due);
    due = setTimeout(() => { if (document.body.clientWidth !== width) { width = document.body.clientWidth; drawAll(); } }, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  matchMedia("print").addEventListener("change", drawAll);
  // What comes before the first drawing: other scripts add to it.
  const first = [];
  Promise.resolve().then(async () => { for (const step of first) await step(); await drawAll(); });
  return { given, bytes, when, datasets, css, views, draw, drawn, unpack, first };
})();
