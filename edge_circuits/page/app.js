// State and events: what the reader has chosen, and one `update` that shows it.
const data = JSON.parse(document.getElementById("payload").textContent), byId = (id) => document.getElementById(id);
const READINGS = { q: "q", k: "k", v: "v", mlp: "into MLPs", feature: "into features", logits: "into logits" };
const CLASSES = ["shared", "only here", "only there", "sign flipped"];

const app = {
  graph: makeGraph(data.graph),
  two: data.sides.length === 2,
  views: data.sides.map((side) => ({ side })),
  state: { k: data.k, off: new Set(data.alone ? ["others"] : []), from: 0, to: data.graph.n_layers - 1, query: "", node: null, edge: null,
    rows: 200, found: 0 },
  set(changes) {
    Object.assign(this.state, changes);
    cancelAnimationFrame(this.waiting);
    this.waiting = requestAnimationFrame(() => this.update());
  },
  select(what) {
    const { node = null, edge = null } = what ?? {}, again = node === this.state.node && edge?.key === this.state.edge?.key;
    this.set(again ? { node: null, edge: null } : { node, edge });
  },
  classOf(edge) {
    const [here, there] = this.views.map(({ byKey }) => byKey.get(edge.key));
    if (!here || !there) return here ? "only here" : "only there";
    return here.signed && there.signed && here.score * there.score < 0 ? "sign flipped" : "shared";
  },
  colourOf(edge) { return this.two ? this.classOf(edge) : edge.part; },
  colours() {
    const style = getComputedStyle(document.documentElement), value = (name) => style.getPropertyValue(`--${name.replaceAll(" ", "-")}`);
    return Object.fromEntries([...Object.keys(READINGS), ...CLASSES, "band", "faint"].map((name) => [name, value(name)]));
  },

  isShown(edge) {
    const { off, from, to } = this.state;
    const inside = edge.layers.every((layer) => layer === null || (layer >= from && layer <= to));
    return inside && !off.has(edge.part) && !off.has(effect(edge)) && !(this.two && off.has(this.classOf(edge)));
  },
  hover(what, at) {
    const tip = byId("tip");
    tip.hidden = !what;
    if (!what) return;
    tip.replaceChildren(...words(what, this).map((line) => element("div", {}, line)));
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(at.right + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${at.bottom + height + 20 > innerHeight ? Math.max(4, at.top - height - 12) : at.bottom + 14}px`;
  },

  update() {
    const { state, graph, views } = this;
    for (const view of views) {
      const chosen = Math.min(state.k, view.side.most);
      view.live = liveEdges(graph, view, (edge) => (state.off.has("others") ? edge.kept : edge.rank < chosen));
      view.byKey = new Map(view.live.map((edge) => [edge.key, edge]));
    }
    const all = views.flatMap((view) => view.live), found = this.matching(all);
    for (const view of views) {
      view.shown = view.live.filter((edge) => this.isShown(edge));
      const trace = state.node !== null || state.edge ? traced(view.shown, state) : null;
      view.drawing.show(all, view.shown, trace, found.nodes);
      const name = this.two ? `${view.side.name}: ${view.shown.length} edges` : "";
      view.drawing.caption.textContent = view.live.length ? name : [...(name ? [name] : []), this.nothing(view)].join(". ");
    }
    this.tell(found);
  },
  // Where nothing is live: the least k at which something is.
  nothing(view) {
    const enough = (k) => liveEdges(this.graph, view, (edge) => edge.rank < k).length;
    let [low, high] = [this.state.k, view.side.most];
    const way = this.graph.starts.length > 1 ? "leads to logits" : "leads from input to logits";
    if (!enough(high)) return `No path of the best ${count(high)} edges ${way}.`;
    for (let k; (k = (low + high) >> 1) > low; ) enough(k) ? (high = k) : (low = k);
    return `No path of these edges ${way}; from ${count(high)} edges on one does.`;
  },
  // Nodes and edges whose name has the text that is searched for.
  matching(edges) {
    const query = this.state.query.trim().toLowerCase(), targets = new Map(), nodes = new Set();
    if (!query) return { targets: [], nodes };
    const hit = ({ name, label = "" }) => `${name} ${label.toLowerCase()}`.includes(query), there = new Set(edges.flatMap((edge) => [edge.source, ...edge.readers]));
    const named = this.graph.nodes.filter((node) => there.has(node.index) && hit(node));
    for (const { name, index } of named.sort((a, b) => (b.name === query) - (a.name === query))) {
      nodes.add(index);
      targets.set(name, { node: index });
    }
    edges.filter((edge) => this.isShown(edge) && hit(edge)).forEach((edge) => targets.set(edge.name, { edge }));
    return { targets: [...targets.values()], nodes };
  },
  tell(found) {
    const { state, views } = this, [one, other] = views, shown = views.map((view) => view.shown.length);
    const at = steps.findIndex((k) => k >= state.k);
    Object.assign(byId("k"), { value: at < 0 ? steps.length - 1 : at, disabled: state.off.has("others") });
    byId("number").value = state.k;
    byId("k").setAttribute("aria-valuetext", `${state.k} edges`);
    const live = views.map((view) => view.live.length), hidden = String(live) === String(shown) ? "" : `, ${shown.join(" and ")} shown`;
    byId("count").textContent = `${live.map(count).join(" and ")} live${hidden}`;
    byId("found").textContent = state.query ? `${found.targets.length} found` : "";
    this.targets = found.targets;
    const listed = new Map([...(other?.shown ?? []), ...one.shown].map((edge) => [edge.key, edge]));
    const rows = [...listed.values()].sort((a, b) => a.rank - b.rank);
    drawTable(this, rows.map((edge) => ({ edge, here: one.byKey.get(edge.key), there: other?.byKey.get(edge.key) })), state.rows);
    drawGrid(this, one.shown);
    this.markCurve?.(state.k);
    const hint = element("p", { class: "note" }, "Click a node or an edge to trace what leads to and from it.");
    if (state.node === null && !state.edge) return section("selected", "", hint);
    const lines = words(state.edge ? { edge: state.edge } : { node: state.node }, this).map((line) => element("p", {}, line));
    section("selected", "Traced", ...lines, element("button", { type: "button", id: "clear", onclick: () => this.select(null) }, "Show all"));
  },
};

// The slider's places: every number up to 60, then two percent more at each step.
const steps = [];
for (let k = 0; k < data.most; k = Math.max(k + 1, Math.round(k * (k < 60 ? 1 : 1.02)))) steps.push(k);
steps.push(data.most);

function filter(name, label, colour) {
  const box = element("input", { type: "checkbox", "data-filter": name });
  box.checked = name !== "others" || data.alone;
  box.addEventListener("change", () => {
    app.state.off[box.checked === (name === "others") ? "add" : "delete"](name);
    app.set({});
  });
  const swatch = colour ? element("span", { class: `swatch ${name}`, style: `--colour:var(--${colour})` }) : null;
  return element("label", {}, box, swatch, label);
}
function layerChoice(name) {
  const input = element("input", { type: "number", min: 0, max: data.graph.n_layers - 1, value: app.state[name], "aria-label": `${name} layer` });
  input.addEventListener("input", () => app.set({ [name]: input.valueAsNumber || 0 }));
  return input;
}
function begin() {
  const night = matchMedia("(prefers-color-scheme: dark)"), { dataset } = document.documentElement;
  const dress = (dark) => app.set({}, (dataset.theme = dark ? "dark" : "light"));
  dress(night.matches);
  for (const id of ["title", "headline", "subtitle"]) byId(id).textContent = data[id];
  const parts = new Set(app.graph.destinations.map(({ part }) => part)), readings = Object.entries(READINGS).filter(([name]) => parts.has(name));
  const groups = [readings.map(([name, label]) => filter(name, label, app.two ? null : name))];
  if (data.sides.some((side) => side.score && side.signed)) groups.push(["helps", "hurts"].map((name) => filter(name, name, "ink")));
  if (app.two) groups.push(CLASSES.map((name) => filter(name, name, name.replaceAll(" ", "-"))));
  if (data.sides.every((side) => side.kept)) groups.push([filter("others", "only the circuit that was found")]);
  groups.push(["layers ", layerChoice("from"), " to ", layerChoice("to")]);
  byId("filters").replaceChildren(...groups.map((group) => element("div", {}, ...group)));
  [byId("k").max, byId("number").max] = [steps.length - 1, data.most];
  const sides = app.views.map((view) => Object.assign(view, makeEdges(app.graph, view.side))), rows = orderRows(app.graph, sides);
  for (const view of sides) {
    view.drawing = new Drawing(view.side, app.graph, rows, app);
    byId("drawings").append(view.drawing.figure);
  }
  drawCurve(data.curve, app);
  drawChecks(data.checks);
  drawPrompts(data.prompts);
  drawAbout(data.about);
  const on = (id, type, act) => byId(id).addEventListener(type, act);
  on("k", "input", ({ target }) => app.set({ k: steps[target.value] }));
  on("number", "change", ({ target }) => app.set({ k: Math.max(0, Math.min(data.most, Math.round(target.valueAsNumber || 0))) }));
  on("search", "input", ({ target }) => app.set({ query: target.value, found: 0 }));
  on("search", "keydown", ({ key }) => {
    const { targets, state: { found } } = app;
    if (key === "Enter" && targets.length) app.set({ node: null, edge: null, ...targets[found % targets.length], found: found + 1 });
  });
  on("theme", "click", () => dress(dataset.theme === "light"));
  night.addEventListener("change", () => dress(night.matches));
  addEventListener("resize", () => app.set({}));
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") app.select(null);
    if (event.key !== "/" || event.target.tagName === "INPUT") return;
    event.preventDefault();
    byId("search").focus();
  });
  app.update();
}
begin();
