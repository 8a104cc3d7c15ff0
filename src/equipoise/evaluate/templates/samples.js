"use strict";
(() => {
  const form = document.querySelector(".filters");
  const [search, kind, outcome, model] = ["search", "kind", "outcome", "model"].map((id) => document.getElementById(id));
  const cards = [...document.querySelectorAll(".sample")].map((card) => {
    const template = card.querySelector("template");
    const text = card.textContent + " " + (template ? template.content.textContent : "");
    return { card, template, kind: card.closest("[data-kind]").dataset.kind, text: text.toLowerCase(),
      outcomes: card.dataset.outcomes.split(" ") };
  });

  // What is closed is not in the document: neither our search nor the browser's own can show it.
  const fill = ({ card, template }) => {
    if (template && card.open && template.isConnected) template.replaceWith(template.content.cloneNode(true));
    mind(card);
  };
  const mind = (card) => card.querySelectorAll("[data-model]").forEach((part) => {
    part.hidden = model.value !== "" && part.dataset.model !== model.value;
  });
  cards.forEach((one) => one.card.addEventListener("toggle", () => fill(one)));

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (found) => outcome.value === "" ||
      found.some((one) => one.endsWith("-" + outcome.value) && (model.value === "" || one.startsWith(model.value + "-")));
    let count = 0;
    cards.forEach((one) => {
      const shown = (kind.value === "" || one.kind === kind.value) && fits(one.outcomes) && words.every((word) => one.text.includes(word));
      one.card.hidden = !shown;
      count += shown;
      mind(one.card);
    });
    document.querySelectorAll("section.kind").forEach((part) => { part.hidden = !part.querySelector(".sample:not([hidden])"); });
    document.getElementById("found").textContent = `${count.toLocaleString("en")} of ${cards.length.toLocaleString("en")} prompts`;
  };
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());

  const all = document.getElementById("open-all");
  if (all) {
    all.addEventListener("click", () => {
      const listed = cards.filter((one) => one.template && !one.card.hidden);
      const opening = listed.some((one) => !one.card.open);
      listed.forEach((one) => { one.card.open = opening; fill(one); });
      all.textContent = opening ? "Close all that are listed" : "Open all that are listed";
    });
  }
})();
