"use strict";
// The policy that is shown: its settings, and all that follows them. Every result was computed beforehand.
(() => {
  const { given, bytes, when, datasets, views, draw, drawn, unpack, first } = page;
  const count = given.scale.count, nothing = 65535;
  const named = given.series.slice(1);
  let lines, texts, shown = given.first, zoomed = false;
  const chosen = () => [...document.querySelectorAll("input[name=series]:checked")].map((box) => box.value);

  // Differences from interval to interval, high bytes first.
  const read = (buffer) => {
    const raw = new Uint8Array(buffer), size = raw.length / 2, all = new Uint16Array(size);
    for (let k = 0; k < size; k += 1) {
      const change = (raw[k] << 8) | raw[size + k];
      all[k] = k % count ? (all[k - 1] + change) & 65535 : change;
    }
    return (number) => ({ low: all.subarray(2 * number * count, (2 * number + 1) * count), high: all.subarray((2 * number + 1) * count, 2 * (number + 1) * count) });
  };
  const amount = (step) => given.scale.lowest + step * given.scale.step;
  const time = (k) => given.begin + (given.end - given.begin) * k / count;
  const lineOf = (name) => name === given.series[0] ? (texts.thresholds.length ? lines(named.length + shown) : null) : lines(named.indexOf(name));

  // A band over the whole time: what another tool's saw-tooth lies between, in a hundred steps.
  const envelope = (name, line) => {
    const found = [], step = count / 100;
    for (let k = 0; k < count; k += step) {
      const low = line.low.subarray(k, k + step), high = line.high.subarray(k, k + step);
      const least = Math.min(...low);
      if (least === nothing) continue;
      found.push({ series: name, part: name, band: true, front: false, time: time(k), low: amount(least), high: amount(Math.max(...high)) });
    }
    if (found.length) found.push({ ...found[found.length - 1], time: given.end });
    return found;
  };

  // One row for each change; a new part after an interval of which nothing is known.
  const rows = (name) => {
    const line = lineOf(name), band = given.bands.includes(name), found = [];
    if (!line) return found;
    if (band && !zoomed) return envelope(name, line);
    let part = 0;
    for (let k = 0; k < count; k += 1) {
      if (line.low[k] === nothing) { part += 1; continue; }
      if (k && k < count - 1 && line.low[k] === line.low[k - 1] && line.high[k] === line.high[k - 1]) continue;
      found.push({ series: name, part: `${name} ${part}`, band, front: name === given.series[0], time: time(k), low: amount(line.low[k]), high: amount(line.high[k]) });
    }
    if (found.length) found.push({ ...found[found.length - 1], time: given.end });
    return found;
  };
  const series = () => {
    const same = shown === given.recommended;
    return [given.series[0], ...chosen()].filter((name) => !(same && name === given.word && texts.thresholds.length));
  };
  const fill = () => {
    datasets.free = series().reverse().flatMap(rows);
    const level = texts.thresholds[shown] ?? null;
    datasets.levels = given.levels.map((row) => ({ ...row, threshold: level, text: level === null ? "" : `threshold: ${bytes(level)}` }));
    datasets.cursor = [];
    const row = texts.rows[Math.floor(shown / (given.sizes[given.sizes.length - 1] || 1))];
    if (!row) return;
    // The recommended policy stays where it is, whichever are shown beside it.
    const marked = row.points.some((point) => point.chosen) ? [] : given.policies.filter((point) => point.chosen).map((point) => ({ ...point, joined: false }));
    datasets.policies = [...row.points, ...marked];
  };
  const redraw = async (name, sets) => {
    for (const set of sets) views[name].data(set, datasets[set]);
    if (name === "tradeoff") views[name].signal("current", shown);
    await views[name].runAsync();
  };
  drawn.tradeoff = async (view) => { view.signal("current", shown); await view.runAsync(); };

  // The settings as numbers, the threshold last: it varies fastest.
  const controls = [...document.querySelectorAll("[data-setting]")];
  const settings = () => given.sizes.map((_, k) => {
    const own = controls.filter((control) => Number(control.dataset.setting) === k);
    if (!own.length) return Math.floor(given.first / given.sizes.slice(k + 1).reduce((a, b) => a * b, 1)) % given.sizes[k];
    return Number((own.find((control) => control.type === "range" || control.checked) ?? own[0]).value);
  });
  const number = () => settings().reduce((sum, value, k) => sum * given.sizes[k] + value, 0);
  const set = (wanted) => {
    let rest = wanted;
    for (let k = given.sizes.length - 1; k >= 0; k -= 1) {
      const value = rest % given.sizes[k];
      rest = Math.floor(rest / given.sizes[k]);
      for (const control of controls.filter((one) => Number(one.dataset.setting) === k)) {
        if (control.type === "range") control.value = String(value);
        else control.checked = Number(control.value) === value;
      }
    }
  };
  const slider = document.getElementById("threshold");
  const put = (id, html) => { const place = document.getElementById(id); if (place) place.innerHTML = html; };
  const lows = () => {
    const table = document.getElementById("t-lows"), line = lineOf(given.series[0]);
    if (!table || !line) return;
    [...table.tBodies[0].rows].forEach((row, k, all) => {
      const part = line.low.subarray(Math.floor(k * count / all.length), Math.floor((k + 1) * count / all.length));
      row.cells[1].textContent = bytes(amount(Math.min(...part)));
    });
  };
  const mark = () => {
    for (const row of document.querySelectorAll("#t-policies tr[data-run]")) {
      const own = Number(row.dataset.run) === shown;
      row.classList.toggle("current", own);
      if (own) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
      if (own) row.hidden = false;
    }
  };
  let rowShown = null;
  const show = () => {
    // Texts were escaped when they were made, and hold nothing that was not.
    const run = texts.runs[shown], row = Math.floor(shown / given.sizes[given.sizes.length - 1]);
    put("head", run.head); put("lead", run.lead); put("cards", run.cards);
    document.getElementById("toml").textContent = run.toml;
    document.getElementById("shown-name").textContent = run.name;
    if (slider) {
      const text = JSON.parse(slider.dataset.values)[Number(slider.value)];
      document.getElementById("threshold-value").textContent = text;
      slider.setAttribute("aria-valuetext", `${text}${shown === given.recommended ? `, ${given.word}` : ""}`);
    }
    const body = document.getElementById("t-policies").tBodies[0];
    if (row !== rowShown) {
      const peers = [...body.rows].filter((one) => !one.dataset.run && !one.querySelector("button.fold"));
      body.innerHTML = texts.rows[row].body;
      body.prepend(...peers);
      for (const head of document.querySelectorAll("#t-policies th[aria-sort]")) head.removeAttribute("aria-sort");
      rowShown = row;
    }
    mark();
    lows();
    fill();
    const back = document.getElementById("back");
    if (back) back.disabled = shown === given.recommended;
  };
  let busy = false, again = false, spoken;
  const changed = async () => {
    shown = number();
    show();
    clearTimeout(spoken);
    spoken = setTimeout(() => {
      const figures = [...document.querySelectorAll("#cards li")].map((one) => `${one.querySelector("b").textContent} ${one.querySelector("span").textContent.split(";")[0]}`);
      document.getElementById("said").textContent = `${texts.runs[shown].name}: ${figures.join(", ")}`;
    }, 250);
    if (busy) { again = true; return; }
    busy = true;
    do { again = false; await redraw("free", ["free", "levels", "cursor"]); await redraw("tradeoff", ["policies"]); } while (again);
    busy = false;
    document.documentElement.dataset.shown = String(shown);
  };

  // The part of the time that is shown: what the brush does, for the keyboard.
  const zoom = async (from, until) => {
    const brush = given.specs.free.params.find((param) => param.name === "brush");
    if (from === null) delete brush.value;
    else brush.value = { x: [Math.max(given.begin, from), Math.min(given.end, until)] };
    zoomed = from !== null;
    fill();
    await draw("free");
  };
  const lowest = () => {
    let best = null;
    for (const name of series().filter((one) => !given.bands.includes(one))) {
      const line = lineOf(name);
      for (let k = 0; line && k < count; k += 1) if (!best || line.low[k] < best.low) best = { low: line.low[k], at: time(k) };
    }
    return best;
  };
  for (const button of document.querySelectorAll("button[data-zoom]")) {
    button.addEventListener("click", () => {
      const day = 86400000;
      if (button.dataset.zoom === "all") return zoom(null, null);
      if (button.dataset.zoom === "worst") { const worst = lowest(), near = Math.min(3 * day, (given.end - given.begin) / 20); return worst && zoom(worst.at - near, worst.at + near); }
      return zoom(given.end - Number(button.dataset.zoom) * day, given.end);
    });
  }

  // What the lines say under the pointer.
  const tip = document.createElement("div");
  tip.id = "tip"; tip.hidden = true; tip.setAttribute("aria-hidden", "true");
  document.body.append(tip);
  const place = document.getElementById("chart-free");
  place.addEventListener("pointermove", (event) => {
    const svg = place.querySelector("svg");
    if (!svg || !lines) return;
    const box = svg.getBoundingClientRect(), [left, top] = views.free.origin(), scale = views.free.scale("detail_x");
    const x = event.clientX - box.left - left, y = event.clientY - box.top - top;
    if (x < 0 || x > scale.range()[1] || y > views.free.signal("detail_height")) { leave(); return; }
    const at = Number(scale.invert(x));
    const k = Math.min(count - 1, Math.max(0, Math.floor((at - given.begin) / (given.end - given.begin) * count)));
    const items = series().map((name) => {
      const line = lineOf(name);
      if (!line || line.low[k] === nothing) return null;
      const label = name === given.series[0] ? texts.runs[shown].name : name;
      const low = bytes(amount(line.low[k])), high = bytes(amount(line.high[k]));
      return `${label}: ${low === high ? low : `${low} to ${high}`} free`;
    }).filter(Boolean);
    tip.textContent = [`${when(time(k))} (UTC)`, ...items].join("\n");
    tip.hidden = false;
    tip.style.left = `${Math.min(innerWidth - tip.offsetWidth - 8, event.clientX + 14)}px`;
    tip.style.top = `${event.clientY + 16}px`;
    views.free.data("cursor", [{ time: at }]).runAsync();
  });
  const leave = () => { if (!tip.hidden) { tip.hidden = true; views.free.data("cursor", []).runAsync(); } };
  place.addEventListener("pointerleave", leave);

  for (const box of document.querySelectorAll("input[name=series]")) {
    box.addEventListener("change", async () => { fill(); await redraw("free", ["free"]); });
  }
  for (const control of controls) control.addEventListener("input", changed);
  document.getElementById("back")?.addEventListener("click", () => { set(given.recommended); changed(); slider.focus(); });
  document.getElementById("whatif")?.addEventListener("submit", (event) => event.preventDefault());

  const select = document.getElementById("view");
  select?.addEventListener("change", () => {
    for (const table of document.querySelectorAll("[data-view]")) table.hidden = table.dataset.view !== select.value;
  });

  first.push(async () => {
    const [packed, said] = await Promise.all([unpack(given.lines), unpack(given.texts)]);
    lines = read(packed);
    texts = JSON.parse(new TextDecoder().decode(said));
    rowShown = Math.floor(shown / (given.sizes[given.sizes.length - 1] || 1));
    const form = document.getElementById("whatif");
    if (form) { form.hidden = false; set(shown); show(); } else fill();
    document.documentElement.dataset.shown = String(shown);
  });
})();
