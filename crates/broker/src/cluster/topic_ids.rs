//! Topics by their ids.
//!
//! Invariant: what is found is what one image says; the index is made anew when it is asked with another image.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{Image, TopicInfo};

/// The id of a topic, from its text in a znode; the zero id if it has none.
pub fn uuid(topic: &TopicInfo) -> Uuid {
    let decoded = topic.id.as_ref().and_then(|id| URL_SAFE_NO_PAD.decode(id).ok());
    decoded.and_then(|bytes| Uuid::from_slice(&bytes).ok()).unwrap_or_default()
}

/// The bytes of a topic's id in text; zeros if there is none.
pub fn bytes_of(id: Option<&str>) -> [u8; 16] {
    id.and_then(|id| URL_SAFE_NO_PAD.decode(id).ok()).and_then(|b| b.try_into().ok()).unwrap_or_default()
}

type Index = HashMap<Uuid, Arc<str>>;

/// An index of the last image that was asked for.
#[derive(Debug, Default)]
pub struct TopicIds(Mutex<(Arc<Image>, Arc<Index>)>);

impl TopicIds {
    /// Name of a topic; one that is being deleted is gone.
    pub fn name(&self, image: &Arc<Image>, id: Uuid) -> Option<Arc<str>> {
        self.of(image).get(&id).cloned()
    }

    fn of(&self, image: &Arc<Image>) -> Arc<Index> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&last.0, image) {
            let named = image.topics.iter().map(|(name, t)| (uuid(t), Arc::from(name.as_str())));
            *last = (image.clone(), Arc::new(named.filter(|(id, _)| !id.is_nil()).collect()));
        }
        last.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_image_that_is_given() {
        let topic = |id: u128| {
            let id = Some(URL_SAFE_NO_PAD.encode(Uuid::from_u128(id).as_bytes()));
            Arc::new(TopicInfo { id, ..TopicInfo::default() })
        };
        let image = |topics: &[(&str, u128)]| {
            let topics = topics.iter().map(|(name, id)| ((*name).to_owned(), topic(*id))).collect();
            Arc::new(Image { topics, ..Image::default() })
        };
        let (ids, id) = (TopicIds::default(), Uuid::from_u128);
        let first = image(&[("a", 1), ("b", 2), ("none", 0)]);
        assert_eq!(ids.name(&first, id(2)).as_deref(), Some("b"));
        assert_eq!((ids.name(&first, id(3)), ids.name(&first, id(0))), (None, None));
        // Made anew under the same name, and one that is gone.
        let second = image(&[("b", 3)]);
        assert_eq!((ids.name(&second, id(2)), ids.name(&second, id(1))), (None, None));
        assert_eq!(ids.name(&second, id(3)).as_deref(), Some("b"));
        assert_eq!(ids.name(&first, id(1)).as_deref(), Some("a"));
        assert_eq!(uuid(&TopicInfo::default()), id(0));
    }
}
