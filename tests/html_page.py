"""What tests read out of a report page."""
from html.parser import HTMLParser

VOID = {'meta', 'link', 'img', 'br'}


class Page(HTMLParser):
    """Collects what a page refers to and checks that its tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.refers, self.ids, self.pictures = [], [], [], 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.pictures += tag == 'img'
        self.refers += [value for key, value in attributes if key in ('src', 'href', 'xlink:href')]
        self.ids += [value for key, value in attributes if key == 'id']

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()
