//! A hash map in shards, so that a changed copy of a large one shares all but the shards that changed:
//! the cost of a change does not grow with the size of the table.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

/// A power of two, so that the choice of a shard is a mask.
const SHARDS: usize = 128;

/// A map whose clones share their shards until one of them is changed.
#[derive(Clone)]
pub struct Sharded<K, V> {
    hasher: ahash::RandomState,
    /// Always [`SHARDS`] many; empty ones are one shared allocation.
    shards: Vec<Arc<ahash::HashMap<K, V>>>,
}

impl<K, V> Default for Sharded<K, V> {
    fn default() -> Self {
        let empty = Arc::new(ahash::HashMap::default());
        Self { hasher: ahash::RandomState::new(), shards: vec![empty; SHARDS] }
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Sharded<K, V> {
    fn shard_of<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default()
    }

    /// The value of `key`.
    pub fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards.get(self.shard_of(key))?.get(key)
    }

    /// Sets the value of `key`; the old one is returned.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.shard_of(&key);
        Arc::make_mut(self.shards.get_mut(index)?).insert(key, value)
    }

    /// Removes `key`; its value is returned.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        // A look first: a shard without the key need not be copied.
        self.get(key)?;
        let index = self.shard_of(key);
        Arc::make_mut(self.shards.get_mut(index)?).remove(key)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.is_empty())
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }
}

impl<K: std::fmt::Debug, V: std::fmt::Debug> std::fmt::Debug for Sharded<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.shards.iter().flat_map(|shard| shard.iter())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_clone_leaves_the_original_as_it_was() {
        let mut first = Sharded::default();
        for n in 0..1000 {
            first.insert(n, n);
        }
        let mut second = first.clone();
        assert_eq!(second.remove(&7), Some(7));
        second.insert(8, 80);
        assert_eq!((first.get(&7), first.get(&8), first.len()), (Some(&7), Some(&8), 1000));
        assert_eq!((second.get(&7), second.get(&8), second.len()), (None, Some(&80), 999));
    }

    #[test]
    fn a_change_copies_one_shard_only() {
        let mut first = Sharded::default();
        for n in 0..1000 {
            first.insert(n, n);
        }
        let mut second = first.clone();
        second.insert(1, 2);
        second.remove(&5000);
        let copied = first.shards.iter().zip(&second.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(copied, 1);
    }
}
