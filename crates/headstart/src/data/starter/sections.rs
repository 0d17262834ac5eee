//! Reads the embedded text files: `[name]` headings, one entry per line, `#` comments.
//! Never: what the entries mean.

/// The lines below one heading.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) lines: Vec<&'static str>,
}

/// Cuts a file into its sections, in order. Lines before the first heading are dropped (there are none).
pub(super) fn parse(text: &'static str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.push(Section { name, lines: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.lines.push(line);
        }
    }
    sections
}
