//! DescribeCluster: brokers and controller (KIP-700).

use kafka_protocol::{
    ResponseError,
    messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse, describe_cluster_response::DescribeClusterBroker},
    protocol::StrBytes,
};

use super::{
    Context,
    metadata::{CLUSTER_OPERATIONS, NOT_ASKED, endpoint},
};
use crate::broker::Broker;

/// Addresses of brokers are asked for, not those of KRaft's controllers.
const BROKERS: i8 = 1;

/// Answers a request.
pub fn handle(broker: &Broker, context: &Context, request: &DescribeClusterRequest, version: i16) -> DescribeClusterResponse {
    let answer = DescribeClusterResponse::default().with_error_message(None);
    if version >= 1 && request.endpoint_type != BROKERS {
        let why = "The request was sent to an endpoint of brokers.".to_owned();
        return answer.with_error_code(ResponseError::MismatchedEndpointType.code()).with_error_message(Some(StrBytes::from_string(why)));
    }
    let image = broker.image();
    let brokers = image.brokers.iter().filter_map(|(id, info)| {
        let at = endpoint(info, context)?;
        let host = StrBytes::from_string(at.host.clone());
        Some(
            DescribeClusterBroker::default()
                .with_broker_id(BrokerId(*id))
                .with_host(host)
                .with_port(at.port.into())
                .with_rack(info.rack.clone().map(StrBytes::from_string)),
        )
    });
    let operations = if request.include_cluster_authorized_operations { CLUSTER_OPERATIONS } else { NOT_ASKED };
    answer
        .with_cluster_id(StrBytes::from_string(broker.cluster_id().to_owned()))
        .with_controller_id(BrokerId(image.controller.unwrap_or(-1)))
        .with_brokers(brokers.collect())
        .with_cluster_authorized_operations(operations)
}
