//! InitProducerId: an id for an idempotent producer. Transactions are refused.

use kafka_protocol::{
    ResponseError,
    messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId},
};

use crate::broker::Broker;

async fn id(broker: &Broker, request: &InitProducerIdRequest) -> Result<i64, ResponseError> {
    if let Some(id) = &request.transactional_id {
        if id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        // As produce has it: a client ends with this at once, and names the transactional id.
        tracing::info!("a producer asks for transactions as {:?}: they are not supported", id.as_str());
        return Err(ResponseError::TransactionalIdAuthorizationFailed);
    }
    if (request.producer_id.0 == -1) != (request.producer_epoch == -1) {
        return Err(ResponseError::InvalidRequest);
    }
    let client = broker.zookeeper.borrow().clone();
    // Clients ask again after this error, and only after this and a few like it.
    let client = client.ok_or(ResponseError::CoordinatorLoadInProgress)?;
    broker.producer_ids.next(&client, broker.id()).await.map_err(|e| {
        tracing::warn!("no producer id: {e}");
        ResponseError::CoordinatorLoadInProgress
    })
}

/// Answers a request. Every id is new and begins with epoch 0, also for a producer that names an id, as on Kafka.
pub async fn handle(broker: &Broker, request: &InitProducerIdRequest) -> InitProducerIdResponse {
    match id(broker, request).await {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(0),
        Err(e) => InitProducerIdResponse::default().with_error_code(e.code()).with_producer_id(ProducerId(-1)).with_producer_epoch(-1),
    }
}
