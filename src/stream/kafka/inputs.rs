//! The input topics read by themselves: no group, no offsets committed, `read_committed`. For audits.

use rdkafka::Message;

use super::{
    log::record_of,
    params::KafkaParams,
    reader::{Place, Reader},
    topics::check_topics,
};
use crate::{
    event::{Offset, Origin, PartitionId, Positions, View},
    stream::{InputLog, LogError, RecordBatch},
};

/// Records handed over at once.
const BATCH_RECORDS: usize = 4_096;

/// Reads any part of the input topics.
pub struct KafkaInputs {
    params: KafkaParams,
    reader: Reader,
}

impl KafkaInputs {
    /// Checks the topics and connects.
    pub fn open(params: &KafkaParams) -> Result<Self, LogError> {
        check_topics(params)?;
        let reader = Reader::new(params, &format!("{}-inputs", params.group))?;
        Ok(Self { params: params.clone(), reader })
    }
}

impl InputLog for KafkaInputs {
    fn earliest_blocking(&mut self, partition: PartitionId) -> Result<Positions, LogError> {
        let mut earliest = Positions::default();
        for view in View::ALL {
            let place = Place { topic: self.params.topics.input(view), partition: partition.0 };
            earliest.set(view, Offset(self.reader.watermarks(place)?.0));
        }
        Ok(earliest)
    }

    fn replay_blocking(
        &mut self,
        partition: PartitionId,
        from: Positions,
        to: Positions,
        visit: &mut dyn FnMut(&RecordBatch),
    ) -> Result<(), LogError> {
        read_inputs(&self.reader, &self.params, partition, (from, to), &mut || Ok(()), visit)
    }
}

/// Reads `[from, to)` of every input topic in batches, and calls `keep_alive` in between.
pub(super) fn read_inputs(
    reader: &Reader,
    params: &KafkaParams,
    partition: PartitionId,
    (from, to): (Positions, Positions),
    keep_alive: &mut dyn FnMut() -> Result<(), LogError>,
    visit: &mut dyn FnMut(&RecordBatch),
) -> Result<(), LogError> {
    let mut batch = RecordBatch::default();
    for view in View::ALL {
        let place = Place { topic: params.topics.input(view), partition: partition.0 };
        let (from, to) = (from.get(view).0, to.get(view).0);
        reader.read(place, from, Some(to), keep_alive, &mut |message| {
            let origin = Origin { view, partition, offset: Offset(message.offset()) };
            batch.push_record(&record_of(origin, message));
            if batch.len() >= BATCH_RECORDS {
                visit(&batch);
                batch.clear();
            }
        })?;
    }
    if !batch.is_empty() {
        visit(&batch);
    }
    Ok(())
}
