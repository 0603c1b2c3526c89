// One circuit: edges on a canvas, nodes above it as SVG that keyboards and screen readers reach.
const DURATION = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 220, REACH = 7, ROUND = { head: 4, neuron: 6, error: 0 };

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "text", "path", "line", "circle"].includes(tag);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

class Drawing {
  constructor(side, graph, rows, app) {
    Object.assign(this, { side, graph, rows, app, places: new Map(), marks: new Map(), curves: [], edges: [] });
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.svg = element("svg", { role: "group" });
    this.caption = element("figcaption");
    this.stage = element("div", { class: "stage" }, this.canvas, this.svg);
    this.figure = element("figure", {}, this.caption, element("div", { class: "scroll" }, this.stage));
    this.stage.addEventListener("pointermove", (event) => {
      const under = this.under(event);
      this.stage.style.cursor = under ? "pointer" : "default";
      this.app.hover(under, new DOMRect(event.clientX, event.clientY, 0, 0));
    });
    this.stage.addEventListener("pointerleave", () => this.app.hover(null));
    this.stage.addEventListener("click", (event) => this.app.select(this.under(event)));
    this.svg.addEventListener("keydown", (event) => this.walk(event));
  }

  // Show edges; nodes have their places by all live ones, filtered or not. A key-value head is read by heads that lead on.
  show(live, edges, trace, found) {
    const nodes = new Set([...(this.graph.starts.length > 1 ? [] : [0]), this.graph.top, ...live.map((edge) => edge.source)]);
    const own = new Set(edges.flatMap((edge) => [edge.source, ...edge.readers])), height = Math.max(420, innerHeight - 250);
    const { places, size, bands } = placed(this.rows, nodes, Math.max(280, this.stage.parentElement.clientWidth), height);
    Object.assign(this, { size, bands, trace, found, own, edges: [...edges].sort((a, b) => b.rank - a.rank) });
    this.svg.setAttribute("aria-label", `${this.side.name}: ${edges.length} edges; the table below lists them`);
    Object.assign(this.stage.style, { width: `${size.width}px`, height: `${size.height}px` });
    this.mark(places);
    this.move(places);
  }

  mark(places) {
    for (const [index, mark] of this.marks) if (!places.has(index)) { mark.remove(); this.marks.delete(index); }
    for (const [index, { gap }] of places) {
      const node = this.graph.nodes[index], mark = this.marks.get(index) ?? this.made(node);
      const width = Math.max(13, Math.min(node.wide ?? (node.kind === "head" ? 56 : 60), gap - 4)), [box, text, label] = mark.children;
      Object.entries({ x: -width / 2, width, rx: ROUND[node.kind] ?? 10 }).forEach((pair) => box.setAttribute(...pair));
      if (label) label.textContent = node.label.length * 6 > width ? `${node.label.slice(0, width / 6 - 1)}…` : node.label;
      text.textContent = width >= 46 || node.kind !== "head" ? node.name : String(node.head);
      const dim = !(this.trace?.nodes ?? this.own).has(index);
      mark.setAttribute("class", `node ${node.kind}${dim ? " dim" : ""}${this.found.has(index) ? " found" : ""}` +
        (this.app.state.node === index ? " selected" : ""));
    }
    const first = this.marks.get(this.app.state.node) ?? this.marks.get(this.graph.top);
    for (const mark of this.marks.values()) mark.setAttribute("tabindex", mark === first ? 0 : -1);
  }

  made(node) {
    const mark = element("g", { role: "button", "aria-label": node.name, "data-node": node.name },
      element("rect", { y: -11, height: 22 }), element("text", { y: 4 }), ...(node.label ? [element("text", { y: 23, class: "label" })] : []));
    mark.addEventListener("focus", () => this.app.hover({ node: node.index, side: this.side }, mark.getBoundingClientRect()));
    mark.addEventListener("blur", () => this.app.hover(null));
    this.marks.set(node.index, mark);
    this.svg.append(mark);
    return mark;
  }

  move(places) {
    const from = this.places, began = performance.now(), still = !DURATION || !from.size || this.edges.length > 1500;
    cancelAnimationFrame(this.frame);
    const next = (now) => {
      const part = still ? 1 : Math.min(1, (now - began) / DURATION), eased = 1 - (1 - part) ** 3;
      this.places = new Map([...places].map(([index, to]) => {
        const { x, y } = from.get(index) ?? to, at = { ...to, x: x + (to.x - x) * eased, y: y + (to.y - y) * eased };
        this.marks.get(index).setAttribute("transform", `translate(${at.x.toFixed(1)} ${at.y.toFixed(1)})`);
        return [index, at];
      }));
      this.draw();
      if (part < 1) this.frame = requestAnimationFrame(next);
    };
    next(began);
  }

  // A vertical Bézier curve from the top of a source to the part of the node that it enters.
  curve(edge, reader) {
    const start = this.places.get(edge.source), end = this.places.get(reader);
    const port = { q: -0.27, k: 0, v: 0.27 }[edge.part] ?? 0, width = Math.min(56, end.gap - 4);
    const x0 = start.x, y0 = start.y - 11, x1 = end.x + port * width, y1 = end.y + 12, rise = (y0 - y1) * 0.5;
    const steep = Math.abs(x1 - x0) < 30 && y0 - y1 > 110;
    const bow = steep ? (x0 < this.size.width / 2 ? -1 : 1) * Math.min(90, 0.12 * (y0 - y1)) : 0;
    const path = new Path2D(`M${x0} ${y0}C${x0 + bow} ${y0 - rise} ${x1 + bow} ${y1 + rise} ${x1} ${y1}`);
    return { edge, path, x: x1, top: y1, bottom: y0 };
  }

  draw() {
    const { width, height } = this.size, scale = devicePixelRatio || 1, colours = this.app.colours(), ink = this.canvas.getContext("2d");
    Object.assign(this.canvas, { width: Math.round(width * scale), height: Math.round(height * scale) }); // and clears it
    ink.setTransform(scale, 0, 0, scale, 0, 0);
    this.labels(ink, colours);
    this.curves = this.edges.flatMap((edge) => edge.readers.filter((r) => this.places.has(r)).map((r) => this.curve(edge, r)));
    const largest = Math.max(...this.edges.map((edge) => Math.abs(edge.score ?? 0))), n = this.edges.length;
    const faintest = Math.min(0.75, Math.max(0.05, 5 / Math.sqrt(n))), widest = n > 1500 ? 3.2 : 4.6;
    const isDim = (edge) => this.trace && !this.trace.edges.has(edge.key);
    if (this.trace) this.curves.sort((one, other) => isDim(other.edge) - isDim(one.edge));
    for (const { edge, path } of this.curves) {
      const strength = edge.score === null ? 0.3 : Math.abs(edge.score) / (largest || 1);
      ink.globalAlpha = isDim(edge) ? 0.05 : this.trace ? 0.9 : faintest + (1 - faintest) * strength ** 0.6;
      ink.lineWidth = 0.6 + (widest - 0.6) * strength ** 0.7;
      ink.strokeStyle = colours[this.app.colourOf(edge)];
      ink.setLineDash(effect(edge) === "hurts" ? [5, 4] : []);
      ink.stroke(path);
    }
    ink.setLineDash([]);
    ink.globalAlpha = 1;
    for (const { edge, x, top } of this.curves) {
      if (!PARTS.includes(edge.part) || isDim(edge)) continue;
      ink.fillStyle = colours[edge.part];
      ink.fillRect(x - 2, top - 2, 4, 3);
    }
  }

  labels(ink, colours) {
    ink.font = "11px system-ui, sans-serif";
    for (const [layer, [bottom, top]] of this.bands) {
      ink.fillStyle = colours.band;
      if (layer % 2 === 0) ink.fillRect(0, top - 18, this.size.width, bottom - top + 36);
      ink.fillStyle = colours.faint;
      ink.fillText(`layer ${layer}`, 6, (top + bottom) / 2 + 4);
    }
  }

  // What is under the pointer: a node, else the uppermost curve.
  under(event) {
    const mark = event.target.closest?.(".node");
    if (mark) return { node: [...this.marks].find(([, made]) => made === mark)[0], side: this.side };
    const box = this.stage.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const ink = this.canvas.getContext("2d"), scale = devicePixelRatio || 1;
    ink.lineWidth = 2 * REACH;
    const hit = this.curves.findLast(({ edge, path, top, bottom }) => y > top - REACH && y < bottom + REACH &&
      (!this.trace || this.trace.edges.has(edge.key)) && ink.isPointInStroke(path, x * scale, y * scale));
    return hit && { edge: hit.edge, side: this.side };
  }

  // Arrow keys go to the next node of the row, or to the nearest one of the row above or below.
  walk(event) {
    const at = [...this.marks].find(([, mark]) => mark === document.activeElement)?.[0];
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (at === undefined || (!way && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    if (!way) return this.app.select({ node: at });
    const here = this.places.get(at), cost = ({ x, y }) => Math.abs(x - here.x) + 1000 * Math.abs(y - here.y);
    const ahead = [...this.marks.keys()].map((index) => [index, this.places.get(index)]).filter(([, { x, y }]) =>
      way[0] ? Math.abs(y - here.y) < 1 && (x - here.x) * way[0] > 1 : (y - here.y) * way[1] > 1);
    ahead.sort(([, a], [, b]) => cost(a) - cost(b));
    if (ahead.length) this.marks.get(ahead[0][0]).focus();
  }
}
