"use strict";
const OPTIONS = { responsive: true, displayModeBar: false };
for (const source of document.querySelectorAll("script.chart")) {
  const { data, layout } = JSON.parse(source.textContent);
  Plotly.newPlot(source.dataset.target, data, layout, OPTIONS);
}
