//! `--script-lib DIR`: functions that the operator provides to every script.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rhai::{Engine, Module, ParseError, Scope};

/// Most files of a library.
const FILES: usize = 256;
/// Largest file, in bytes.
const FILE_BYTES: u64 = 1024 * 1024;

/// Why the script library cannot be used. The runner does not start.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The directory or a file of it cannot be read.
    #[error("script library {}: {source}", path.display())]
    Io {
        /// What was being read.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is not Rhai.
    #[error("script library {}, {}: {}", path.display(), line_and_column(error), error.err_type())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        error: Box<ParseError>,
    },
    /// Two files have a function of one name with as many parameters: which one scripts would call is a matter of luck.
    #[error("script library: {name} with {parameters} parameters is both in {} and in {}: rename one of them", first.display(), second.display())]
    Twice {
        /// The function.
        name: String,
        /// How many parameters it has.
        parameters: usize,
        /// The file that has it first.
        first: PathBuf,
        /// The file that has it again.
        second: PathBuf,
    },
    /// There is too much of it.
    #[error("script library {}: {what}", path.display())]
    TooLarge {
        /// Directory or file.
        path: PathBuf,
        /// Which limit.
        what: String,
    },
}

fn line_and_column(error: &ParseError) -> String {
    let position = error.position();
    format!("line {}, column {}", position.line().unwrap_or(0), position.position().unwrap_or(0))
}

/// Makes the functions of all `*.rhai` files of the directory, sorted by name, visible to every script of the engine and to each other. Private
/// functions stay inside their file. What stands outside of functions is not run. Returns the names of the functions.
pub(crate) fn load_library(engine: &mut Engine, dir: &Path) -> Result<Vec<String>, LibraryError> {
    let mut origin: BTreeMap<(String, usize), PathBuf> = BTreeMap::new();
    for path in files(dir)? {
        let text = read(&path)?;
        let mut ast =
            engine.compile(text).map_err(|e| LibraryError::Syntax { path: path.clone(), error: Box::new(e) })?;
        ast.clear_statements();
        ast.set_source(path.file_name().unwrap_or_default().to_string_lossy().as_ref());
        for function in ast.iter_functions().filter(|f| f.access == rhai::FnAccess::Public) {
            let key = (function.name.to_owned(), function.params.len());
            if let Some(first) = origin.insert(key.clone(), path.clone()) {
                return Err(LibraryError::Twice { name: key.0, parameters: key.1, first, second: path });
            }
        }
        let module = Module::eval_ast_as_new(Scope::new(), &ast, engine)
            .expect("an AST without statements has nothing that could fail");
        engine.register_global_module(module.into());
    }
    Ok(origin.into_keys().map(|(name, _)| name).collect())
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, LibraryError> {
    let io = |source| LibraryError::Io { path: dir.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "rhai") {
            paths.push(path);
        }
        if paths.len() > FILES {
            return Err(LibraryError::TooLarge { path: dir.to_owned(), what: format!("more than {FILES} files") });
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String, LibraryError> {
    let io = |source| LibraryError::Io { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(io)?.len();
    if size > FILE_BYTES {
        let what = format!("{size} bytes, at most {FILE_BYTES} are allowed");
        return Err(LibraryError::TooLarge { path: path.to_owned(), what });
    }
    fs::read_to_string(path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{ScriptLimits, new_engine};

    fn library(files: &[(&str, &str)]) -> Result<Engine, LibraryError> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let mut engine = new_engine(&ScriptLimits::default());
        load_library(&mut engine, dir.path()).map(|_| engine)
    }

    #[test]
    fn functions_of_all_files_see_each_other() {
        let engine = library(&[
            ("b.rhai", "fn double(x) { helper(x) * 2 }"),
            ("a.rhai", "private fn hidden() { 1 } fn helper(x) { x + hidden() } throw \"statements are not run\";"),
            ("c.txt", "not rhai at all {"),
        ])
        .unwrap();
        assert_eq!(engine.eval::<i64>("double(20)").unwrap(), 42);
        assert_eq!(engine.eval::<i64>("fn triple(x) { double(x) + helper(x) } triple(1)").unwrap(), 6);
        assert!(engine.eval::<i64>("hidden()").is_err());
    }

    #[test]
    fn errors_name_file_line_and_column() {
        let error = library(&[("bad.rhai", "fn ok() { 1 }\nfn broken( { 2 }")]).unwrap_err().to_string();
        assert!(error.contains("bad.rhai, line 2, column 12"), "{error}");
        let error = library(&[("a.rhai", "fn f(x) { 1 }"), ("b.rhai", "fn f(y) { 2 }")]).unwrap_err().to_string();
        assert!(
            error.contains("f with 1 parameters") && error.contains("a.rhai") && error.contains("b.rhai"),
            "{error}"
        );
        let error = load_library(&mut Engine::new(), Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
