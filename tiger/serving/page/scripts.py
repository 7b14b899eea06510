"""Scripts of the page: buttons inside HTML, where the focus goes, and the address."""

from __future__ import annotations

# For gr.HTML: a click on one of its buttons is an event with what the button says.
BUTTONS = """
element.addEventListener("click", event => {
  const button = event.target.closest("button[data-act]");
  if (button) trigger("click", {act: button.dataset.act, item: button.dataset.item});
});
"""
# Changes of its text are read out.
LIVE = 'element.setAttribute("role", "status"); element.setAttribute("aria-live", "polite");'
# The title of the point under the pointer or the focus, under the map.
CAPTION = """
const say = event => {
  const point = event.target.closest("circle, g.mark"), line = element.querySelector(".caption");
  const title = point && (point.closest("g.mark") || point).querySelector("title");
  if (line && title) line.textContent = title.textContent;
};
element.addEventListener("mouseover", say);
element.addEventListener("focusin", say);
"""


def region(label: str) -> str:
    """Give an element a name, and let scripts focus it."""
    return (
        f'element.setAttribute("role", "region"); element.setAttribute("aria-label", "{label}"); '
        "element.tabIndex = -1;"
    )


def keep_focus(place: str, always: bool = False) -> str:
    """Focus an element after an update: always, or if the one that had the focus has gone.

    Args:
        place: CSS selector; the first visible one is focused.
    """
    lost = "true" if always else "!document.activeElement || document.activeElement === document.body"
    return f"""() => setTimeout(() => {{
  const target = document.querySelector({place!r});
  if (target && ({lost})) target.focus({{preventScroll: true}});
}}, 50)"""


READ_ADDRESS = "() => [window.location.search]"
# Gradio's own parameters, such as __theme, stay.
WRITE_ADDRESS = """query => {
  const kept = new URLSearchParams(query);
  for (const [name, value] of new URLSearchParams(window.location.search))
    if (name.startsWith("__")) kept.append(name, value);
  const text = kept.toString();
  history.replaceState(history.state, "", window.location.pathname + (text ? "?" + text : ""));
}"""
