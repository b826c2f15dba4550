"use strict";
// The story of an image: opened wherever it is named, by click or by keyboard.
(() => {
  const { given, bytes, when, unpack } = page;
  const dialog = document.getElementById("story"), body = document.getElementById("story-body");
  const span = (given.end - given.begin) / 1000;
  let all = null;
  const make = (tag, text, options = {}) => Object.assign(document.createElement(tag), { ...options, ...(text === undefined ? {} : { textContent: text }) });
  const svg = (tag, values) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(values)) made.setAttribute(name, String(value));
    return made;
  };
  const at = (seconds) => when(given.begin + 1000 * seconds);
  const lasting = (seconds) => {
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= 2 * size) return `${(seconds / size).toFixed(seconds < 10 * size ? 1 : 0)} ${unit}`;
    return `${Math.round(seconds)} s`;
  };
  // A bar for each stay, a tick for each use, a triangle where it had to be pulled again.
  const timeline = (story, policy, label, width) => {
    const made = svg("svg", { class: "life", viewBox: "0 0 1000 34", preserveAspectRatio: "none", role: "img", "aria-label": label });
    // Strokes of a pixel and triangles of ten, however narrow it is.
    const x = (seconds) => 1000 * seconds / span, pixel = 1000 / Math.max(100, width);
    made.append(svg("rect", { x: 0, y: 5, width: 1000, height: 14, class: "ground" }));
    for (const [from, to, , , again] of story.stays[policy] ?? []) {
      made.append(svg("rect", { x: x(from), y: 5, width: Math.max(1.5 * pixel, x(to) - x(from)), height: 14, class: "stay" }));
      if (again) made.append(svg("path", { d: `M${x(from)} 22l${-5 * pixel} 10h${10 * pixel}z`, class: "again" }));
    }
    for (const time of story.times) made.append(svg("rect", { x: x(time) - pixel / 2, y: 5, width: pixel, height: 14, class: "use" }));
    return made;
  };
  const table = (caption, heads, rows) => {
    const made = make("table"), region = make("div", undefined, { className: "scroll", tabIndex: 0 });
    region.setAttribute("role", "region"); region.setAttribute("aria-label", caption);
    made.append(make("caption", caption));
    const head = made.createTHead().insertRow();
    for (const name of heads) { const cell = make("th", undefined, { scope: "col" }); cell.append(make("span", name, { className: "plain" })); head.append(cell); }
    const inner = made.createTBody();
    for (const row of rows) {
      const line = inner.insertRow();
      row.forEach((value, k) => { const cell = make(k ? "td" : "th"); if (!k) cell.scope = "row"; cell.append(value); line.append(cell); });
    }
    region.append(made);
    return region;
  };
  const removals = (story) => {
    const rows = [];
    for (const [policy, stays] of Object.entries(story.stays)) stays.forEach(([from, to, gone, pulled, times], k) => {
      // A stay stands for several where there are too many: it says how often the image came back.
      if (!k && times) rows.push([at(from), policy, `removed and came back ${times === 1 ? "once" : `${times.toLocaleString("en")} times`} until ${at(to)}`, bytes(pulled)]);
      if (!gone) return;
      const next = stays[k + 1];
      const more = next ? next[4] - 1 : 0, oftener = more > 0 ? `, then ${more.toLocaleString("en")} more ${more === 1 ? "time" : "times"} until ${at(next[1])}` : "";
      rows.push([at(to), policy, next ? `came back after ${lasting(next[0] - to)}${oftener}` : "did not come back", next && next[3] ? bytes(next[3]) : "nothing"]);
    });
    return rows;
  };
  const most = 40;
  const show = (number) => {
    const story = all[number];
    document.getElementById("story-name").textContent = story.name;
    body.replaceChildren();
    const facts = [`${bytes(story.bytes)}, ${bytes(story.own)} of it in layers of its own`, `${story.uses.toLocaleString("en")} uses${story.last === null ? "" : `, the last ${at(story.last)}`}`,
      `ID ${story.id}`, ...(story.local ? ["exists only on this host"] : []), ...(story.names.length ? [`also called ${story.names.join(", ")}`] : [])];
    const list = make("ul", undefined, { className: "notes" });
    for (const fact of facts) list.append(make("li", fact));
    body.append(list, make("h3", "When it was there"));
    for (const policy of Object.keys(story.stays)) {
      const times = (story.stays[policy] ?? []).reduce((sum, stay) => sum + stay[4], 0);
      const pulled = (story.stays[policy] ?? []).reduce((sum, stay) => sum + stay[3], 0);
      const label = `${policy}: there for ${lasting((story.stays[policy] ?? []).reduce((sum, [from, to]) => sum + to - from, 0))}, ${times ? `pulled again ${times === 1 ? "once" : `${times.toLocaleString("en")} times`} (${bytes(pulled)})` : "never pulled again"}`;
      body.append(make("p", label, { className: "hint" }), timeline(story, policy, label, Math.min(800, innerWidth - 70)));
    }
    body.append(make("p", `${at(0).slice(0, 10)} to ${at(span).slice(0, 10)}. A bar: it was there; a stroke: a use; a triangle: it had to be pulled again.`, { className: "hint" }));
    if (story.projects.length) body.append(table("Uses by project", ["project", "uses"], story.projects.map(([name, uses]) => [name, uses.toLocaleString("en")])));
    const gone = removals(story);
    body.append(gone.length ? table(gone.length > most ? `Removals and what they cost, the first ${most} of ${gone.length}` : "Removals and what they cost", ["removed (UTC)", "by", "then", "pulled again"], gone.slice(0, most)) : make("p", "It was never removed."));
    if (story.partners.most.length) {
      const rows = story.partners.most.map(([place, name, size]) => {
        if (place === null) return [name, bytes(size)];
        const button = make("button", name, { type: "button", className: "image" });
        button.dataset.story = place;
        return [button, bytes(size)];
      });
      body.append(table(`Layers shared with ${story.partners.count} other ${story.partners.count === 1 ? "image" : "images"}${story.partners.count > rows.length ? ", most with" : ""}`, ["image", "shared"], rows));
    } else body.append(make("p", "It shares no layer with another image."));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    document.getElementById("story-name").focus();
  };
  const load = async () => { all ??= JSON.parse(new TextDecoder().decode(await unpack(given.stories))); return all; };
  // In the tables of images, the same in small.
  const small = async () => {
    const stories = await load();
    for (const view of document.querySelectorAll("[data-view]")) for (const button of view.querySelectorAll("button[data-story]")) {
      button.after(timeline(stories[Number(button.dataset.story)], view.dataset.policy, "when it was there and used, as its story says", button.parentNode.clientWidth || 500));
    }
  };
  addEventListener("report-drawn", small, { once: true });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-story]");
    if (button) { await load(); show(Number(button.dataset.story)); }
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  // Any image, by a part of its name.
  const find = document.getElementById("find"), known = document.getElementById("all-images");
  find?.addEventListener("focus", async () => { if (!known.children.length) for (const story of await load()) known.append(make("option", undefined, { value: story.name })); });
  find?.addEventListener("change", async () => {
    const wanted = find.value.trim().toLowerCase();
    if (!wanted) return;
    const stories = await load();
    let place = stories.findIndex((story) => story.name.toLowerCase() === wanted);
    if (place < 0) place = stories.findIndex((story) => story.name.toLowerCase().includes(wanted));
    find.setCustomValidity(place < 0 ? "no image of this report is called so" : "");
    find.reportValidity();
    if (place >= 0) show(place);
  });
})();
