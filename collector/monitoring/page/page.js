"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const bytes = (count) => {
    if (count === null || count === undefined) return "unknown";
    const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let amount = Number(count), k = 0;
    while (Math.abs(amount) >= 1024 && k < units.length - 1) { amount /= 1024; k += 1; }
    return `${k === 0 ? amount : amount.toPrecision(3)} ${units[k]}`;
  };
  const when = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 16).replace("T", " ");
  const lasting = (seconds) => {
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= size) return `${(seconds / size).toFixed(1)} ${unit}`;
    return `${Math.max(0, Math.round(seconds))} s`;
  };
  const fill = (table, rows) => {
    const body = table.tBodies[0];
    body.replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      row.forEach((text, k) => { const cell = document.createElement(k ? "td" : "th"); if (!k) cell.scope = "row"; cell.textContent = text; line.append(cell); });
      return line;
    }));
    table.hidden = !rows.length;
  };
  const trend = (state) => {
    const rows = state.free_history, place = $("trend"), total = state.total_bytes;
    place.replaceChildren();
    if (rows.length < 2 || !total) return;
    const [from, to] = [rows[0][0], rows[rows.length - 1][0]];
    const y = (free) => 118 - 116 * Math.min(1, free / total);
    const add = (tag, values) => { const made = document.createElementNS("http://www.w3.org/2000/svg", tag); for (const [name, value] of Object.entries(values)) made.setAttribute(name, value); place.append(made); };
    add("polyline", { class: "line", points: rows.map(([time, free]) => `${600 * (time - from) / (to - from || 1)},${y(free)}`).join(" ") });
    if (state.threshold_bytes !== null) add("line", { class: "level", x1: 0, x2: 600, y1: y(state.threshold_bytes), y2: y(state.threshold_bytes) });
    const least = rows.reduce((best, row) => (row[1] < best[1] ? row : best));
    $("least").textContent = `Least in ${lasting(to - from)}: ${bytes(least[1])}, ${when(least[0])} (UTC).`;
  };
  const show = (state) => {
    document.title = `${state.host}: ${bytes(state.free_bytes)} free`;
    $("host").textContent = state.host;
    $("as-of").textContent = `As of ${when(state.now)} (UTC)`;
    $("warnings").replaceChildren(...state.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
    $("free").textContent = state.total_bytes ? `${bytes(state.free_bytes)} of ${bytes(state.total_bytes)} free (${(100 * state.free_bytes / state.total_bytes).toFixed(1)} %)` : "No disk sample yet";
    $("free").classList.toggle("short", state.threshold_bytes !== null && state.free_bytes < state.threshold_bytes);
    $("level").textContent = state.threshold_bytes === null ? "" : `Pruning starts below ${bytes(state.threshold_bytes)}.`;
    $("holds").textContent = Object.entries(state.holds).map(([name, size]) => `${name.replace("_", " ")} ${bytes(size)}`).join(", ");
    trend(state);
    const next = state.next;
    $("next-said").textContent = next === null ? "No pruner has looked yet." : `${next.policy}, as of ${when(next.time)} (UTC): ${next.count} images may go, which frees ${bytes(next.frees)}. Nothing goes while there is space enough.`;
    fill($("next"), next === null ? [] : next.removals.map((one) => [one.name, bytes(one.frees), `${lasting(state.now - one.last_use)} ago`, one.why]));
    $("prunes-said").textContent = state.prunes.length ? "" : "Nothing has been removed yet.";
    fill($("prunes"), state.prunes.map((one) => [when(one.time), one.trigger, String(one.removed), bytes(one.freed), one.returned ? `${one.returned} (${bytes(one.returned_bytes)})` : "none", one.outcome]));
    $("seen").textContent = `${state.events.toLocaleString("en")} events of ${state.images.toLocaleString("en")} images${state.first_event === null ? "" : ` since ${when(state.first_event)} (UTC)`}; ${state.coverage_7_days === null ? "nothing" : `${Math.floor(100 * state.coverage_7_days)} %`} of the last 7 days observed.`;
    document.documentElement.dataset.ready = "yes";
  };
  const look = async () => {
    let pause = 5000;
    try {
      const answer = await fetch("state.json", { cache: "no-store" });
      const state = answer.ok ? await answer.json() : null;
      if (state === null) pause = 1000; else show(state);
    } catch { $("as-of").textContent = "The collector does not answer: this is what it said last."; }
    setTimeout(look, document.hidden ? 30000 : pause);
  };
  look();
})();
