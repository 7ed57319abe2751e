"use strict";
const form = document.getElementById("filters");
const grid = document.getElementById("grid");
const cards = [...grid.children].map((card) => ({card, marks: [...card.querySelectorAll(".mark")]}));

function chosen(name) {
  return new Set([...form.querySelectorAll(`input[name=${name}]:checked`)].map((box) => box.value));
}

function update() {
  const [classes, sizes, splits, views] = ["class", "size", "split", "view"].map(chosen);
  const empty = chosen("empty").size > 0;
  let count = 0;
  for (const {card, marks} of cards) {
    let visible = 0;
    for (const mark of marks) {
      const shown = classes.has(mark.dataset.class) && sizes.has(mark.dataset.size);
      mark.style.display = shown ? "" : "none";
      if (shown && [...views].some((view) => mark.closest(".view").classList.contains(view))) visible += 1;
    }
    card.hidden = !splits.has(card.dataset.split) || !(visible || (empty && !marks.length));
    count += !card.hidden;
  }
  for (const view of ["lies", "fed"]) grid.classList.toggle(view, views.has(view));
  grid.classList.toggle("names", chosen("names").size > 0);
  document.getElementById("count").textContent = `${count} of ${cards.length}`;
}

form.addEventListener("change", update);
for (const button of form.querySelectorAll("button")) {
  button.addEventListener("click", () => {
    for (const box of form.querySelectorAll("input[name=class]")) box.checked = button.dataset.all === "1";
    update();
  });
}
update();
