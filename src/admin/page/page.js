// Fetches the page again every two seconds and shows it in place of this one. Keeps what is open, the place and
// the focus, and says since when nobody answers.
(() => {
  "use strict";
  const every = 2000;
  const deadline = 8000;
  const note = document.getElementById("away");
  let timer = 0;
  let asks = false;

  const main = () => document.querySelector("main");

  const say = (words, isAway) => {
    if (note.textContent !== words) note.textContent = words;
    document.body.classList.toggle("away", isAway);
  };

  // Text that somebody is about to copy stays.
  const isSelected = () => {
    const selection = getSelection();
    return !selection.isCollapsed && main().contains(selection.anchorNode);
  };

  const show = (text) => {
    const page = new DOMParser().parseFromString(text, "text/html");
    const next = page.querySelector("main[data-at]");
    if (!next) throw new Error("another program answers here");
    if (page.body.dataset.build !== document.body.dataset.build) {
      location.reload();
      return;
    }
    const open = new Set([...main().querySelectorAll("details[open]")].map((details) => details.id));
    for (const details of next.querySelectorAll("details")) details.open = open.has(details.id);
    const focused = main().contains(document.activeElement) && document.activeElement.closest("details");
    const [left, top] = [scrollX, scrollY];
    main().replaceWith(document.adoptNode(next));
    if (focused) document.getElementById(focused.id)?.querySelector("summary").focus({ preventScroll: true });
    scrollTo(left, top);
    document.title = page.title;
    document.getElementById("icon").href = page.getElementById("icon").getAttribute("href");
  };

  const ask = async () => {
    if (asks) return;
    asks = true;
    clearTimeout(timer);
    try {
      if (isSelected()) {
        say("Not renewed while text is selected.", false);
      } else {
        const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(deadline) });
        if (!answer.ok) throw new Error(`the answer is an error, ${answer.status}`);
        const text = await answer.text();
        if (!isSelected()) {
          show(text);
          say("", false);
        }
      }
    } catch (error) {
      const why = error.message.startsWith("the answer") || error.message.startsWith("another") ? ` (${error.message})` : "";
      say(`No answer since ${main().dataset.at} UTC${why}; the picture below is from then.`, true);
      document.title = `no answer – ${document.title.replace(/^no answer – /, "")}`;
    }
    asks = false;
    timer = setTimeout(ask, every);
  };

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) ask();
  });
  timer = setTimeout(ask, every);
})();
