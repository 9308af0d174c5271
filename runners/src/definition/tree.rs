//! YAML text as a tree with positions.
//!
//! The tree is built from parser events rather than by serde, for three reasons: all problems are wanted, not the first; scalars must keep
//! their text (`no` is a string where a string is expected); and an alias must cost nothing until it is known to be harmless. Here an
//! alias is a reference to the node it names, and every node knows how large and how deep it would be if written out.

use std::{borrow::Cow, collections::HashMap};

use serde_saphyr::granit_parser::{self, Event, Marker, Parser, ScalarStyle};

use super::{Position, Problem};
use crate::job::limits;

/// Nodes of one text: 100,000 steps with 14 keys each, or proportionally more dependencies.
const MAX_NODES: usize = 3_000_000;
/// Nodes and bytes of text when all aliases are written out. A text without aliases cannot reach it.
const MAX_WEIGHT: u32 = 2 * limits::WORKFLOW_BYTES as u32;

/// Names a node of its [`Tree`].
pub(super) type NodeId = u32;

/// One value.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub(super) value: Value<'a>,
    pub(super) at: Position,
    weight: u32,
    height: u8,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// Text without quotes: its type depends on what is expected.
    Plain(Cow<'a, str>),
    /// Quoted text, or a block: always a string.
    Quoted(Cow<'a, str>),
    /// Items, each with the place where it is used.
    List(Vec<Use>),
    /// Keys and values.
    Map(Vec<(Use, Use)>),
}

/// A node as a member of another: of an alias, the place is where it is used, not where it was defined.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    pub(super) node: NodeId,
    pub(super) at: Position,
}

/// A whole text.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
    root: Use,
}

impl<'a> Tree<'a> {
    /// Reads a text with exactly one document.
    pub(super) fn parse(text: &'a str) -> Result<Self, Problem> {
        let depth = limits::DEPTH;
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: depth,
            block_nesting_limit: depth,
        };
        let mut builder = Builder::default();
        for next in Parser::new_from_str_with_options(text, options) {
            let (event, span) = next.map_err(|e| {
                let at = position(e.marker());
                let message = match e.kind() {
                    granit_parser::ErrorKind::RecursionLimitExceeded => too_deep(),
                    _ => format!("this is not YAML: {}", e.info()),
                };
                Problem::new(at, "", message)
            })?;
            let at = position(&span.start);
            builder.event(event, at, span.tag_start.as_ref().map_or(at, position))?;
        }
        match builder.root {
            Some(root) => Ok(Self { nodes: builder.nodes, root }),
            None => Err(Problem::new(
                Position { line: 1, column: 1 },
                "",
                "the text is empty: it must begin with `workflow:`",
            )),
        }
    }

    pub(super) fn root(&self) -> Use {
        self.root
    }

    pub(super) fn value(&self, at: Use) -> &Value<'a> {
        &self.nodes[at.node as usize].value
    }

    /// Where a node was written, which is not where it is used if an alias names it.
    pub(super) fn defined_at(&self, at: Use) -> Position {
        self.nodes[at.node as usize].at
    }
}

fn too_deep() -> String {
    format!("the text is nested more than {} deep", limits::DEPTH)
}

fn position(marker: &Marker) -> Position {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: small(marker.line()).max(1), column: small(marker.col()).saturating_add(1) }
}

#[derive(Default)]
struct Builder<'a> {
    nodes: Vec<Node<'a>>,
    /// Lists and maps that have not ended.
    open: Vec<Open>,
    /// Anchors whose node is complete.
    anchors: HashMap<usize, NodeId>,
    root: Option<Use>,
    documents: u32,
}

struct Open {
    at: Position,
    anchor: usize,
    is_map: bool,
    members: Vec<Use>,
}

impl<'a> Builder<'a> {
    fn event(&mut self, event: Event<'a>, at: Position, tag_at: Position) -> Result<(), Problem> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = match tag {
                    None => style != ScalarStyle::Plain,
                    Some(tag) => is_string_tag(&tag, tag_at)?,
                };
                let weight = u32::try_from(text.len()).unwrap_or(u32::MAX).saturating_add(1);
                let value = if quoted { Value::Quoted(text) } else { Value::Plain(text) };
                self.add(Node { value, at, weight, height: 0 }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                no_tag(tag.as_deref(), tag_at)?;
                self.begin(at, anchor, false)
            }
            Event::MappingStart(_, anchor, tag) => {
                no_tag(tag.as_deref(), tag_at)?;
                self.begin(at, anchor, true)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(&node) => self.attach(Use { node, at }),
                None => Err(Problem::new(at, "", "this alias stands inside of what it names: write the value out")),
            },
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Problem::new(at, "", "a second document begins here: submit one workflow at a time"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, at: Position, anchor: usize, is_map: bool) -> Result<(), Problem> {
        if self.open.len() >= limits::DEPTH {
            return Err(Problem::new(at, "", too_deep()));
        }
        self.open.push(Open { at, anchor, is_map, members: Vec::new() });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(Open { at, anchor, is_map, members }) = self.open.pop() else { return Ok(()) };
        let (mut weight, mut height) = (1_u32, 0_u8);
        for member in &members {
            let node = &self.nodes[member.node as usize];
            weight = weight.saturating_add(node.weight);
            height = height.max(node.height);
        }
        let value = if is_map {
            Value::Map(members.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
        } else {
            Value::List(members)
        };
        self.add(Node { value, at, weight, height: height.saturating_add(1) }, anchor)
    }

    fn add(&mut self, node: Node<'a>, anchor: usize) -> Result<(), Problem> {
        let (at, id) = (node.at, self.nodes.len());
        if id >= MAX_NODES {
            return Err(Problem::new(
                at,
                "",
                format!("the text has more than {MAX_NODES} values: split it into several workflows"),
            ));
        }
        let id = u32::try_from(id).expect("MAX_NODES is far below 2^32");
        self.nodes.push(node);
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        self.attach(Use { node: id, at })
    }

    /// Makes a node a member of the innermost list or map, or the root.
    fn attach(&mut self, member: Use) -> Result<(), Problem> {
        let node = &self.nodes[member.node as usize];
        if self.open.len() + usize::from(node.height) > limits::DEPTH {
            return Err(Problem::new(member.at, "", too_deep()));
        }
        if node.weight > MAX_WEIGHT {
            let message =
                format!("with all aliases written out this has more than {MAX_WEIGHT} bytes: use fewer aliases");
            return Err(Problem::new(member.at, "", message));
        }
        match self.open.last_mut() {
            Some(open) => open.members.push(member),
            None => self.root = Some(member),
        }
        Ok(())
    }
}

/// `!!str` says that plain text is a string; there is no use for any other tag.
fn is_string_tag(tag: &granit_parser::Tag, at: Position) -> Result<bool, Problem> {
    if tag.is_yaml_core_schema() && tag.suffix() == "str" { Ok(true) } else { Err(unknown_tag(tag, at)) }
}

fn no_tag(tag: Option<&granit_parser::Tag>, at: Position) -> Result<(), Problem> {
    tag.map_or(Ok(()), |tag| Err(unknown_tag(tag, at)))
}

fn unknown_tag(tag: &granit_parser::Tag, at: Position) -> Problem {
    let shown: String = tag.suffix().chars().take(40).collect();
    let message = format!(
        "{shown:?} is read as a YAML tag, because text that begins with ! has to be quoted: put the whole value in double quotes, or into a block after `|`"
    );
    Problem::new(at, "", message)
}
