"use strict";
(() => {
  const { scale, sides, pairs } = JSON.parse(document.getElementById("attention_maps-data").textContent);
  const at = (name) => document.getElementById(`map-${name}`);
  const chosen = (name) => Number(at(name).value);
  const safe = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const SHOWN = 12; // keys that are listed of a query
  // white to dark, by the square root of the weight
  const COLOURS = [[0, "#ffffff"], [0.0625, "#c6dbef"], [0.25, "#6baed6"], [0.5625, "#2171b5"], [1, "#08306b"]];

  function offer(name, labels, first = 0) {
    const before = at(name).value;
    at(name).replaceChildren(...labels.map((label, value) => new Option(label, value)));
    at(name).value = before !== "" && Number(before) < labels.length ? before : first;
  }

  // the weights of one layer and head, query by query
  function weights(side, sentence, layer, head, n) {
    const bytes = Uint8Array.from(atob(side.sentences[sentence]), (character) => character.charCodeAt(0));
    const values = new DataView(bytes.buffer);
    const first = (side.heads.slice(0, layer).reduce((sum, heads) => sum + heads, 0) + head) * n * n;
    const value = (i, j) => values.getUint16(2 * (first + i * n + j), true) / scale;
    return Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => value(i, j)));
  }

  function state() {
    const pair = pairs[chosen("pair")];
    const tokens = pair.sentences[chosen("sentence")];
    const both = ["dense", "sparse"].map((which) => {
      const side = sides[pair[which]];
      const map = weights(side, chosen("sentence"), chosen("layer"), chosen("head"), tokens.length);
      return { which, side, map };
    });
    return { tokens, both };
  }

  function draw() {
    const { tokens, both } = state();
    const places = tokens.map((_, place) => place);
    const words = tokens.map((token) => safe(token));
    const most = Math.max(...both.flatMap(({ map }) => map.flat()));
    const axis = (title) => ({ title: { text: title }, tickvals: places, ticktext: words, automargin: true, showgrid: false });
    for (const { which, side, map } of both) {
      const told = (i, j) => `query ${i}: ${words[i]}<br>key ${j}: ${words[j]}<br>weight ${map[i][j].toFixed(4)}`;
      const heat = {
        type: "heatmap", z: map, zmin: 0, zmax: most, colorscale: COLOURS, hoverinfo: "text",
        text: places.map((i) => places.map((j) => told(i, j))),
        colorbar: { title: { text: "weight", side: "right" } },
      };
      const layout = {
        title: { text: `${which}: ${safe(side.attention)}`, font: { size: 14 }, x: 0.01, xanchor: "left" },
        xaxis: { ...axis("key (token)"), tickangle: -90 },
        yaxis: { ...axis("query (token)"), autorange: "reversed" },
        margin: { t: 40, r: 10, l: 60, b: 60 }, font: { size: 11, color: "#222" },
      };
      Plotly.react(at(which), [heat], layout, OPTIONS);
    }
    list();
  }

  // the keys of one query as a table, for those who cannot point
  function list() {
    const { tokens, both } = state();
    const query = chosen("query");
    const table = document.createElement("table");
    const add = (cells, kind) => {
      const row = table.insertRow();
      for (const cell of cells) row.appendChild(Object.assign(document.createElement(kind), { textContent: cell }));
    };
    add(["rank", ...both.flatMap(({ side }) => [`key, ${side.attention}`, "weight"])], "th");
    const ranked = both.map(({ map }) =>
      map[query].map((weight, key) => [weight, key]).sort((a, b) => b[0] - a[0]).filter(([weight]) => weight > 0));
    const lines = Math.min(SHOWN, Math.max(...ranked.map((keys) => keys.length)));
    for (let rank = 0; rank < lines; rank += 1) {
      const cells = ranked.flatMap((keys) =>
        rank < keys.length ? [`${keys[rank][1]}: ${tokens[keys[rank][1]]}`, keys[rank][0].toFixed(4)] : ["", ""]);
      add([rank + 1, ...cells], "td");
    }
    at("table").replaceChildren(table);
  }

  function refresh() {
    const pair = pairs[chosen("pair")];
    offer("sentence", pair.sentences.map((tokens) => tokens.join(" ").slice(0, 60)));
    offer("layer", sides[pair.dense].heads.map((_, layer) => `${layer}`));
    offer("head", Array.from({ length: sides[pair.dense].heads[chosen("layer")] }, (_, head) => `${head}`));
    const tokens = pair.sentences[chosen("sentence")];
    offer("query", tokens.map((token, place) => `${place}: ${token}`), tokens.length - 1);
    draw();
  }

  offer("pair", pairs.map((pair) => pair.name));
  for (const name of ["pair", "sentence", "layer", "head"]) at(name).addEventListener("change", refresh);
  at("query").addEventListener("change", list);
  refresh();
  for (const which of ["dense", "sparse"]) {
    at(which).on("plotly_click", ({ points }) => { at("query").value = points[0].y; list(); });
  }
})();
