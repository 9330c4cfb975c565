//! HTML under construction. Each text and each value of an attribute is escaped when it is written.

/// An attribute. Its name is one of the program, its value may be anything.
pub(super) type Attribute<'a> = (&'static str, &'a str);

/// HTML under construction.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Returns the HTML.
    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// Writes text of the program that is HTML already.
    pub(super) fn raw(&mut self, html: &'static str) {
        self.0.push_str(html);
    }

    /// Writes a text.
    pub(super) fn text(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(character),
                // Controls are not allowed in HTML. Marks of direction could turn the text around
                // them.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.0.push('\u{fffd}'),
                _ if character.is_control() => self.0.push('\u{fffd}'),
                _ => self.0.push(character),
            }
        }
    }

    /// Writes an element with content.
    pub(super) fn element(
        &mut self,
        name: &'static str,
        attributes: &[Attribute<'_>],
        content: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        content(self);
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// Writes an element with a text.
    pub(super) fn leaf(&mut self, name: &'static str, attributes: &[Attribute<'_>], text: &str) {
        self.element(name, attributes, |html| html.text(text));
    }

    /// Writes an element without content that has no end tag in HTML, or a shape of SVG.
    pub(super) fn empty(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.open(name, attributes);
        self.0.pop();
        self.0.push_str("/>");
    }

    fn open(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.0.push('<');
        self.0.push_str(name);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
        self.0.push('>');
    }
}

/// A table, of which the first column holds the headings of the rows.
pub(super) struct Table<'a> {
    /// The caption.
    pub(super) caption: &'a str,
    /// The headings of the columns.
    pub(super) head: Vec<String>,
    /// The rows.
    pub(super) rows: Vec<Vec<String>>,
}

impl Table<'_> {
    /// Writes the table. Cells after the first are numbers.
    pub(super) fn write(&self, html: &mut Html) {
        html.element("table", &[("class", "figures")], |html| {
            if !self.caption.is_empty() {
                html.leaf("caption", &[], self.caption);
            }
            html.element("thead", &[], |html| {
                html.element("tr", &[], |html| {
                    for head in &self.head {
                        html.leaf("th", &[("scope", "col")], head);
                    }
                });
            });
            html.element("tbody", &[], |html| {
                for row in &self.rows {
                    html.element("tr", &[], |html| {
                        for (index, cell) in row.iter().enumerate() {
                            match index {
                                0 => html.leaf("th", &[("scope", "row")], cell),
                                _ => html.leaf("td", &[], cell),
                            }
                        }
                    });
                }
            });
        });
    }

    /// Writes the table behind a line that opens it. It is the text alternative of a picture.
    pub(super) fn write_folded(&self, html: &mut Html) {
        html.element("details", &[], |html| {
            html.leaf("summary", &[], "The same as a table");
            self.write(html);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_are_escaped() {
        let mut html = Html::default();
        html.leaf("p", &[("title", "\"><script>")], "<b>&amp; '\u{202e}\u{0}");
        html.empty("br", &[]);
        assert_eq!(
            html.into_string(),
            "<p title=\"&quot;&gt;&lt;script&gt;\">&lt;b&gt;&amp;amp; &#39;\u{fffd}\u{fffd}</p><br/>"
        );
    }
}
