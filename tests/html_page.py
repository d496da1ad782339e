"""Parser of HTML pages."""

from html.parser import HTMLParser


class HtmlPage(HTMLParser):
    """Page with its elements and their attributes, its text, and the text of its table cells."""

    VOID = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.text, self.cells = [], [], "", []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def count(self, tag):
        return [name for name, _ in self.elements].count(tag)

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]
