//! Stub.
#![allow(missing_docs)]
pub struct Curve {
    pub name: String,
    pub dashed: bool,
    pub points: Vec<(f64, f64)>,
}
pub struct Chart {
    pub title: String,
    pub x_label: String,
    pub y_label: String,
    pub curves: Vec<Curve>,
}
pub struct Table {
    pub title: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}
pub struct Confusion {
    pub title: String,
    pub labels: Vec<String>,
    pub counts: Vec<Vec<u64>>,
}
pub struct Report {
    pub title: String,
    pub summary: Vec<String>,
    pub tables: Vec<Table>,
    pub charts: Vec<Chart>,
    pub confusions: Vec<Confusion>,
}
impl Report {
    pub fn write(&self, _p: &std::path::Path) -> crate::Result<()> {
        Ok(())
    }
}
