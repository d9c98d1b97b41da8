(() => {
  "use strict";
  const write = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  };
  for (const button of document.querySelectorAll("button.copy")) {
    const source = button.parentElement.querySelector("pre");
    const said = button.textContent;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const done = await write(source.textContent);
      if (!done) {
        source.closest("details").open = true;
        getSelection().selectAllChildren(source);
      }
      button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(() => { button.textContent = said; }, 2500);
    });
  }
  const show = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let one = target.closest("details"); one; one = one.parentElement.closest("details")) one.open = true;
    target.scrollIntoView({ block: "center", behavior: "instant" });
  };
  addEventListener("hashchange", show);
  show();
})();
