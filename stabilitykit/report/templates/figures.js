"use strict";
// Unpack and draw the figures, in the colours of the page.
(() => {
  const root = document.documentElement;
  const sources = [...document.querySelectorAll("script[data-plot]")];

  // The library and the figures are deflated text: the page carries them, so nothing is fetched.
  const unpacked = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
  };

  // Figures name colours as style sheet variables, so one figure serves dark, light and print.
  const resolved = (value, style) => {
    if (typeof value === "string") {
      const match = /^var\((--[\w-]+)\)$/.exec(value);
      return match ? style.getPropertyValue(match[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => resolved(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolved(item, style)]));
  };

  const figures = new Map();
  const draw = (id) => {
    const figure = resolved(figures.get(id), getComputedStyle(root));
    const config = { displaylogo: false, displayModeBar: false, responsive: true };
    return Plotly.react(id, figure.data, figure.layout, config);
  };
  const redraw = () => [...figures.keys()].forEach(draw);
  const ready = async (source) => {
    const id = source.dataset.plot;
    if (!figures.has(id)) figures.set(id, JSON.parse(await unpacked(source.textContent)));
    draw(id);
  };

  const drawAll = async () => {
    const library = document.createElement("script");
    library.textContent = await unpacked(document.getElementById("plotly").textContent);
    document.body.append(library);
    for (const source of sources) {
      await ready(source);
      // One figure a turn, so that the page answers while many are drawn.
      await new Promise((next) => setTimeout(next, 0));
    }
  };

  // A figure that was drawn while its check was folded or hidden has no width yet.
  const sized = new ResizeObserver((entries) => entries.forEach(({ target, contentRect }) => {
    if (contentRect.width && target.querySelector(".main-svg")) Plotly.Plots.resize(target);
  }));

  drawAll().catch((error) => sources.forEach(({ dataset }) => {
    if (!figures.has(dataset.plot)) document.getElementById(dataset.plot).textContent = `This figure cannot be drawn: ${error}`;
  }));
  document.querySelectorAll(".plot").forEach((plot) => sized.observe(plot));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.addEventListener("repaint", redraw);
  window.addEventListener("beforeprint", () => { root.classList.add("paper"); redraw(); });
  window.addEventListener("afterprint", () => { root.classList.remove("paper"); redraw(); });
})();
