//! Which blocks hold which prefixes.
//!
//! A trie over whole blocks of tokens: a node is the cache block with the keys and values of its
//! tokens, given the tokens of its ancestors. Tokens are compared, not hashes of them, so that no
//! two prefixes can be taken for each other. A block is at most one node, and is named by its number.
//! What keys and values depend on besides tokens is a [`PrefixKey`]: each has a root of its own.
//!
//! The trie owns each of its blocks once (the table counts that). A node is *idle* while nobody else
//! owns its block; idle nodes are given up least recently used first, descendants before ancestors.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::BLOCK_TOKENS;

/// Tokens of a whole block.
pub(super) type BlockKey = [u32; BLOCK_TOKENS];

/// What keys and values depend on besides their tokens, and who may find them.
///
/// The type of the cache's elements is not here: it is one for a whole table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PrefixKey {
    /// The adapter whose weights computed them; 0 is the model alone.
    pub adapter: u32,
    /// Prefixes are shared among equal salts only. The time to a first token says whether a prefix
    /// was known: callers who must not learn that of each other have different salts.
    pub salt: u64,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// Of the root above it.
    root: PrefixKey,
    /// `None` under the root.
    parent: Option<u32>,
    key: BlockKey,
    children: HashMap<BlockKey, u32>,
    /// Blocks before it.
    depth: usize,
    /// When it was last used. No node was used later than its parent.
    used: u64,
    idle: bool,
}

/// Order of giving up: longest unused first, deepest first among those used together.
type Age = (u64, Reverse<usize>, u32);

/// The known prefixes.
#[derive(Debug, Clone)]
pub(super) struct PrefixCache {
    /// By block; `None` for a block that is not in the trie.
    nodes: Vec<Option<Node>>,
    /// First blocks. No map is empty.
    roots: HashMap<PrefixKey, HashMap<BlockKey, u32>>,
    idle: BTreeSet<Age>,
    clock: u64,
    len: usize,
}

impl PrefixCache {
    pub(super) fn new(num_blocks: usize) -> PrefixCache {
        PrefixCache {
            nodes: vec![None; num_blocks],
            roots: HashMap::new(),
            idle: BTreeSet::new(),
            clock: 0,
            len: 0,
        }
    }

    /// Nodes whose blocks nobody else owns.
    pub(super) fn num_idle(&self) -> usize {
        self.idle.len()
    }

    /// Nodes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether a block is in the trie.
    pub(super) fn contains(&self, block: u32) -> bool {
        self.nodes[block as usize].is_some()
    }

    /// Blocks of the longest known prefix of `tokens`, each of them marked as used now.
    pub(super) fn find(&mut self, root: PrefixKey, tokens: &[u32]) -> Vec<u32> {
        self.clock += 1;
        let mut path = Vec::new();
        for key in tokens.as_chunks::<BLOCK_TOKENS>().0 {
            let Some(block) = self.child(root, path.last().copied(), key) else {
                break;
            };
            self.touch(block);
            path.push(block);
        }
        path
    }

    /// Adds what is missing of a prefix: `blocks` hold the whole blocks of `tokens`, one each.
    /// Returns the blocks that became nodes, which the trie now owns. A prefix that is known
    /// already keeps the block that it is known by.
    pub(super) fn insert(&mut self, root: PrefixKey, tokens: &[u32], blocks: &[u32]) -> Vec<u32> {
        self.clock += 1;
        let (mut parent, mut added) = (None, Vec::new());
        let keys = tokens.as_chunks::<BLOCK_TOKENS>().0;
        for (depth, (key, &block)) in keys.iter().zip(blocks).enumerate() {
            let node = match self.child(root, parent, key) {
                Some(known) => {
                    self.touch(known);
                    known
                }
                // Known by other tokens: the caller is wrong about one of them; nothing is added.
                None if self.contains(block) => break,
                None => {
                    self.nodes[block as usize] = Some(Node {
                        root,
                        parent,
                        key: *key,
                        depth,
                        used: self.clock,
                        ..Node::default()
                    });
                    self.children(root, parent).insert(*key, block);
                    self.len += 1;
                    added.push(block);
                    block
                }
            };
            parent = Some(node);
        }
        added
    }

    /// Says whether anybody else owns a node's block.
    pub(super) fn set_idle(&mut self, block: u32, idle: bool) {
        let Some(node) = &mut self.nodes[block as usize] else {
            return;
        };
        node.idle = idle;
        let age = age(block, node);
        if idle {
            self.idle.insert(age);
        } else {
            self.idle.remove(&age);
        }
    }

    /// Removes the idle node that was not used for longest, and all below it. Returns their blocks,
    /// which the trie no longer owns.
    pub(super) fn evict(&mut self) -> Vec<u32> {
        match self.idle.first() {
            Some(&(_, _, oldest)) => self.remove(oldest),
            None => Vec::new(),
        }
    }

    /// Removes the node of a block, if it is one, and all below it. Returns their blocks, which the
    /// trie no longer owns.
    pub(super) fn remove(&mut self, block: u32) -> Vec<u32> {
        if let Some(node) = &self.nodes[block as usize] {
            let (root, parent, key) = (node.root, node.parent, node.key);
            self.children(root, parent).remove(&key);
            if self.roots.get(&root).is_some_and(HashMap::is_empty) {
                self.roots.remove(&root);
            }
        }
        let (mut removed, mut below) = (Vec::new(), vec![block]);
        while let Some(block) = below.pop() {
            if let Some(node) = self.nodes[block as usize].take() {
                self.idle.remove(&age(block, &node));
                below.extend(node.children.into_values());
                removed.push(block);
            }
        }
        // Children are in no order, and the order in which blocks become free is to be the same
        // every time.
        removed.sort_unstable();
        self.len -= removed.len();
        removed
    }

    /// Whether every node is found from its parent, was used no later, and waits with the idle ones
    /// exactly when it is.
    #[cfg(test)]
    pub(super) fn is_consistent(&self) -> bool {
        let nodes = (0..).zip(&self.nodes);
        let mut nodes = nodes.filter_map(|(block, node)| Some((block, node.as_ref()?)));
        let len = nodes.clone().count();
        len == self.len
            && self.roots.values().all(|blocks| !blocks.is_empty())
            && nodes.all(|(block, node)| {
                let parent = node.parent.map(|p| self.nodes[p as usize].as_ref());
                self.child(node.root, node.parent, &node.key) == Some(block)
                    && parent.is_none_or(|p| p.is_some_and(|p| p.used >= node.used))
                    && self.idle.contains(&age(block, node)) == node.idle
            })
    }

    fn child(&self, root: PrefixKey, parent: Option<u32>, key: &BlockKey) -> Option<u32> {
        let children = match parent {
            None => self.roots.get(&root)?,
            Some(block) => &self.nodes[block as usize].as_ref()?.children,
        };
        children.get(key).copied()
    }

    fn children(&mut self, root: PrefixKey, parent: Option<u32>) -> &mut HashMap<BlockKey, u32> {
        match parent.and_then(|block| self.nodes[block as usize].as_mut()) {
            Some(node) => &mut node.children,
            None => self.roots.entry(root).or_default(),
        }
    }

    fn touch(&mut self, block: u32) {
        let clock = self.clock;
        if let Some(node) = &mut self.nodes[block as usize] {
            if node.idle {
                self.idle.remove(&age(block, node));
            }
            node.used = clock;
            if node.idle {
                self.idle.insert(age(block, node));
            }
        }
    }
}

fn age(block: u32, node: &Node) -> Age {
    (node.used, Reverse(node.depth), block)
}
