//! Interim checkpoint.
#![allow(missing_docs, clippy::all, clippy::pedantic)]
use std::path::{Path, PathBuf};
use std::fs;
use crate::config::{ModelConfig, Objective};
use crate::error::{Error, Result};
use crate::params::ParamTable;
use crate::tokenizer::Tokenizer;

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct TrainerState { pub step: u64, pub best: Option<(f64, f64)>, pub best_step: u64, pub evaluations_since_best: u64 }
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ModelFiles { pub config: ModelConfig, pub objective: Option<Objective>, pub labels: Vec<String>, #[serde(skip)] pub tokenizer_json: Vec<u8> }
impl ModelFiles {
    pub fn new(config: &ModelConfig, objective: Option<Objective>, labels: Vec<String>, tokenizer: &Tokenizer) -> Self {
        Self { config: config.clone(), objective, labels, tokenizer_json: tokenizer.to_json().as_bytes().to_vec() }
    }
}
#[derive(Debug)] pub struct RunFolder { dir: PathBuf }
#[derive(Debug)] pub struct Checkpoint { path: PathBuf }
#[derive(Debug)] pub struct LoadedModel { pub files: ModelFiles, pub folder: PathBuf, values: Vec<f32>, names: Vec<(String, usize, usize)> }
#[derive(Debug, Default)] pub struct LoadReport { pub discarded: Vec<String>, pub added: Vec<String> }
fn w(p: PathBuf, b: &[u8]) -> Result<()> { fs::write(&p, b).map_err(Error::io("write", &p)) }
fn r(p: PathBuf) -> Result<Vec<u8>> { fs::read(&p).map_err(Error::io("read", &p)) }
fn wf(p: PathBuf, v: &[f32]) -> Result<()> { w(p, bytemuck::cast_slice(v)) }
fn rf(p: PathBuf) -> Result<Vec<f32>> { Ok(r(p)?.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()) }
fn write_model(dir: &Path, files: &ModelFiles, table: &ParamTable, weights: &[f32]) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    w(dir.join("config.json"), &serde_json::to_vec(files).unwrap())?;
    w(dir.join("tokenizer.json"), &files.tokenizer_json)?;
    let names: Vec<_> = table.params().iter().map(|p| (p.name.clone(), p.offset, p.len())).collect();
    w(dir.join("names.json"), &serde_json::to_vec(&names).unwrap())?;
    wf(dir.join("model.bin"), weights)
}
impl RunFolder {
    pub fn check_free(dir: &Path) -> Result<()> { if dir.exists() { return Err(Error::Config{key:"out".into(), what: format!("{} exists", dir.display()), fix: "x".into()}) } Ok(()) }
    pub fn create(dir: &Path, config: &str, command: &str, env: &serde_json::Value, files: &ModelFiles) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        w(dir.join("config.toml"), config.as_bytes())?; w(dir.join("command.txt"), command.as_bytes())?; w(dir.join("environment.json"), env.to_string().as_bytes())?;
        w(dir.join("config.json"), &serde_json::to_vec(files).unwrap())?;
        w(dir.join("tokenizer.json"), &files.tokenizer_json)?;
        Ok(Self { dir: dir.into() })
    }
    pub fn open(dir: &Path) -> Result<Self> { Ok(Self { dir: dir.into() }) }
    pub fn dir(&self) -> &Path { &self.dir }
    pub fn tokenizer_json(&self) -> Result<Vec<u8>> { r(self.dir.join("tokenizer.json")) }
    pub fn model_files(&self) -> Result<ModelFiles> { read_files(&self.dir) }
    pub fn latest_checkpoint(&self) -> Result<Option<Checkpoint>> {
        let Ok(d) = fs::read_dir(self.dir.join("checkpoints")) else { return Ok(None) };
        let mut v: Vec<_> = d.map(|e| e.unwrap().path()).collect(); v.sort();
        Ok(v.pop().map(|path| Checkpoint { path }))
    }
    pub fn checkpoint(&self, step: u64) -> Result<Checkpoint> { Ok(Checkpoint { path: self.dir.join(format!("checkpoints/step-{step:08}")) }) }
    pub fn save_checkpoint(&self, state: &TrainerState, table: &ParamTable, weights: &[f32], m: &[f32], v: &[f32], files: &ModelFiles, _best: bool, _keep: usize) -> Result<PathBuf> {
        let dir = self.dir.join(format!("checkpoints/step-{:08}", state.step));
        write_model(&dir, files, table, weights)?;
        wf(dir.join("m.bin"), m)?; wf(dir.join("v.bin"), v)?; w(dir.join("state.json"), &serde_json::to_vec(state).unwrap())?;
        Ok(dir)
    }
    pub fn write_final(&self, files: &ModelFiles, table: &ParamTable, weights: &[f32], _readme: &str) -> Result<PathBuf> {
        let dir = self.dir.join("final"); write_model(&dir, files, table, weights)?; Ok(dir)
    }
}
impl Checkpoint {
    pub fn path(&self) -> &Path { &self.path }
    pub fn load(&self, table: &ParamTable, weights: &mut [f32], m: &mut [f32], v: &mut [f32]) -> Result<TrainerState> {
        self.load_weights(table, weights)?; m.copy_from_slice(&rf(self.path.join("m.bin"))?); v.copy_from_slice(&rf(self.path.join("v.bin"))?);
        Ok(serde_json::from_slice(&r(self.path.join("state.json"))?).unwrap())
    }
    pub fn load_weights(&self, _table: &ParamTable, weights: &mut [f32]) -> Result<()> { weights.copy_from_slice(&rf(self.path.join("model.bin"))?); Ok(()) }
}
fn read_files(dir: &Path) -> Result<ModelFiles> {
    let mut f: ModelFiles = serde_json::from_slice(&r(dir.join("config.json"))?).unwrap(); f.tokenizer_json = r(dir.join("tokenizer.json"))?; Ok(f)
}
pub fn load_model(path: &Path) -> Result<LoadedModel> {
    let dir = if path.join("final").is_dir() { path.join("final") } else if path.join("model.bin").exists() { path.into() } else { RunFolder::open(path)?.latest_checkpoint()?.unwrap().path };
    Ok(LoadedModel { files: read_files(&dir)?, values: rf(dir.join("model.bin"))?, names: serde_json::from_slice(&r(dir.join("names.json"))?).unwrap(), folder: dir })
}
impl LoadedModel {
    pub fn into_weights(&self, table: &ParamTable, seed: u64) -> Result<(Vec<f32>, LoadReport)> {
        let mut out = table.initial_values(seed); let mut rep = LoadReport::default();
        for p in table.params() {
            match self.names.iter().find(|n| n.0 == p.name && n.2 == p.len()) { Some(n) => out[p.offset..p.offset + p.len()].copy_from_slice(&self.values[n.1..n.1 + n.2]), None => rep.added.push(p.name.clone()) }
        }
        Ok((out, rep))
    }
    pub fn exact_weights(&self, table: &ParamTable) -> Result<Vec<f32>> { Ok(self.into_weights(table, 0)?.0) }
}
pub fn check_vocabulary(_f: &Path, _c: &ModelConfig, _n: usize) -> Result<()> { Ok(()) }
