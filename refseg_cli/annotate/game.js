// What the pages do beyond plain forms: the link's code, choosing by clicks on the picture, drafts and suggestions.
"use strict";

const all = (selector) => [...document.querySelectorAll(selector)];

// The code of a player's link stands behind the #, which browsers send to nobody.
function join(form) {
  const code = location.hash.slice(1);
  if (!code) return;
  history.replaceState(null, "", location.pathname);
  form.token.value = code;
  form.submit();
}

function play(form) {
  const boxes = new Map(all("input[name=target]").map((box) => [box.value, box]));
  const nothing = form.nothing;
  const draft = `refseg-${form.dataset.task}`;
  let last = null; // the last click on the picture: where, what lay there, and how far down the stack it has come

  const chosen = () => [...boxes.values()].filter((box) => box.checked);

  function show() {
    for (const shape of all("svg [data-object]")) shape.classList.toggle("on", boxes.get(shape.dataset.object).checked);
    const count = chosen().length;
    document.querySelector("#count").textContent = count ? `(${count} chosen)` : "";
  }

  function keep() {
    const state = { phrase: form.phrase?.value, targets: chosen().map((box) => box.value), nothing: nothing.checked };
    sessionStorage.setItem(draft, JSON.stringify(state));
  }

  function restore() {
    for (const name of Object.keys(sessionStorage)) {
      if (name.startsWith("refseg-") && name !== draft) sessionStorage.removeItem(name);
    }
    const state = JSON.parse(sessionStorage.getItem(draft) ?? "null");
    if (!state) return;
    if (form.phrase) form.phrase.value = state.phrase;
    for (const [value, box] of boxes) box.checked = state.targets.includes(value);
    nothing.checked = state.nothing;
  }

  // Objects and "nothing" exclude one another.
  function settle(box) {
    if (box === nothing && nothing.checked) for (const other of boxes.values()) other.checked = false;
    else if (box.checked) nothing.checked = false;
    show();
    keep();
  }

  function toggle(value) {
    const box = boxes.get(value);
    box.checked = !box.checked;
    settle(box);
  }

  // Again and again at one place: the uppermost object, the one below it, ..., and at last none.
  function click(event) {
    const stack = document.elementsFromPoint(event.clientX, event.clientY)
      .map((element) => element.closest("svg [data-object]")?.dataset.object).filter((value) => value);
    if (!stack.length) return;
    const again = last && Math.hypot(last.x - event.clientX, last.y - event.clientY) < 6 && `${last.stack}` === `${stack}`;
    if (again && last.depth < stack.length) toggle(stack[last.depth]);
    const depth = again ? (last.depth + 1) % (stack.length + 1) : 0;
    if (depth < stack.length) toggle(stack[depth]);
    last = { x: event.clientX, y: event.clientY, stack, depth };
  }

  function point(event) {
    const value = event.type === "pointerleave" ? null : event.target.closest("[data-object]")?.dataset.object;
    for (const element of all("[data-object]")) element.classList.toggle("near", element.dataset.object === value);
  }

  restore();
  show();
  form.addEventListener("change", (event) => {
    last = null;
    if (event.target.type === "checkbox") settle(event.target);
  });
  form.addEventListener("input", keep);
  form.addEventListener("pointerover", point);
  form.addEventListener("pointerleave", point);
  form.addEventListener("focusin", point);
  document.querySelector(".stage").addEventListener("click", click);
  for (const offer of all(".offer")) {
    offer.addEventListener("click", () => {
      const targets = offer.dataset.targets.split(" ");
      for (const [value, box] of boxes) box.checked = targets.includes(value);
      nothing.checked = !offer.dataset.targets;
      form.phrase.value = offer.textContent;
      show();
      keep();
      form.phrase.focus();
    });
  }
  // A second click while the first one is on its way must not hand in the next page's form.
  form.addEventListener("submit", () => setTimeout(() => {
    for (const button of form.querySelectorAll("button")) button.disabled = true;
  }));
  addEventListener("pageshow", () => {
    for (const button of form.querySelectorAll("button")) button.disabled = false;
  });
}

if (document.querySelector("#join")) join(document.querySelector("#join"));
if (document.querySelector("#play")) play(document.querySelector("#play"));
document.documentElement.dataset.ready = "true";
