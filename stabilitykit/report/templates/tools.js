"use strict";
// Find, filter, fold, copy, dark or light.
(() => {
  const root = document.documentElement;
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const articles = all("article");
  root.classList.add("scripted");

  // Search and filter.
  const find = document.getElementById("find");
  const chips = all("[data-show]");
  const words = new Map(articles.map((article) => [
    article, all("h3, .question, .sentence, .about, .message", article).map((part) => part.textContent).join("\n").toLowerCase(),
  ]));
  const filter = () => {
    const asked = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = new Set(chips.filter((chip) => chip.ariaPressed === "true").map((chip) => chip.dataset.show));
    let count = 0;
    for (const article of articles) {
      const text = words.get(article);
      article.hidden = !shown.has(article.dataset.verdict) || !asked.every((word) => text.includes(word));
      document.querySelector(`[data-of="${article.id}"]`).hidden = article.hidden;
      count += article.hidden ? 0 : 1;
    }
    for (const title of all("[data-part]")) {
      const section = document.getElementById(title.dataset.part).parentElement;
      section.hidden = title.hidden = all("article", section).every((article) => article.hidden);
    }
    document.getElementById("found").textContent = count === articles.length ? "" : `${count} of ${articles.length} checks`;
  };
  const tools = () => {
    find.addEventListener("input", filter);
    chips.forEach((chip) => chip.addEventListener("click", () => {
      chip.ariaPressed = String(chip.ariaPressed !== "true");
      filter();
    }));
    all("[data-fold]").forEach((button) => button.addEventListener("click", () => {
      all(".fold").forEach((fold) => { fold.open = button.dataset.fold === "open"; });
    }));
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && !event.target.closest("input")) {
        event.preventDefault();
        find.focus();
      } else if (event.key === "Escape" && event.target === find) {
        find.value = "";
        filter();
      }
    });
  };

  // A link leads to a check that can be seen.
  const unfold = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && target.querySelector(":scope > .fold");
    if (!fold) return;
    if (target.hidden) { find.value = ""; chips.forEach((chip) => { chip.ariaPressed = "true"; }); filter(); }
    fold.open = true;
    target.scrollIntoView();
  };

  const copyable = (code) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy ${code.textContent}`);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    code.after(button);
  };

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const theme = () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    document.dispatchEvent(new Event("repaint"));
  };

  if (find) tools();
  all("[data-theme-switch]").forEach((button) => button.addEventListener("click", theme));
  all(".again code, footer code").forEach(copyable);
  window.addEventListener("hashchange", unfold);
  unfold();
})();
