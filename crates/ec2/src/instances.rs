//! Instances and volumes: launch, start, stop, change, terminate.

use std::time::Duration;

use aws_sdk_ec2::types as sdk;
use aws_smithy_types::Blob;

use crate::{ApiError, Client, Instance, InstanceState, Launch, NewVolume, Tags, describe::instance};

/// How often a launch is repeated under the same token after an ambiguous answer.
const LAUNCH_ATTEMPTS: u32 = 6;

pub(crate) fn specification(kind: sdk::ResourceType, tags: &Tags) -> sdk::TagSpecification {
    sdk::TagSpecification::builder().resource_type(kind).set_tags(Some(list(tags))).build()
}

fn list(tags: &Tags) -> Vec<sdk::Tag> {
    tags.iter().map(|(k, v)| sdk::Tag::builder().key(k).value(v).build()).collect()
}

fn mapping(v: &NewVolume) -> sdk::BlockDeviceMapping {
    let ebs = sdk::EbsBlockDevice::builder()
        .set_volume_size(v.size)
        .set_volume_type((!v.kind.is_empty()).then(|| sdk::VolumeType::from(v.kind.as_str())))
        .set_iops(v.iops)
        .set_throughput(v.throughput)
        // EC2 refuses a key without encryption, and `false` where the account encrypts everything.
        .set_encrypted(v.encrypted.then_some(true))
        .set_kms_key_id(v.kms_key.clone())
        .delete_on_termination(v.delete_on_termination)
        .build();
    sdk::BlockDeviceMapping::builder().device_name(&v.device).ebs(ebs).build()
}

impl Client {
    /// Launches one instance. The token makes it safe to repeat, so what is transient is repeated here; a lack of capacity is
    /// not: it is answered at once, for the caller to try elsewhere. With `dry_run` nothing happens, and the answer is an error.
    pub async fn run_instance(&self, launch: &Launch, dry_run: bool) -> Result<Instance, ApiError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.run_once(launch, dry_run).await {
                Err(e) if e.is_transient() && attempt < LAUNCH_ATTEMPTS => {
                    // Seven launches that were throttled together must not come back together.
                    let spread = u64::from(launch.token.bytes().fold(0u8, |h, b| h.wrapping_mul(31).wrapping_add(b)));
                    tokio::time::sleep(Duration::from_millis((300 << attempt.min(4)) + spread * 2)).await;
                }
                other => return other,
            }
        }
    }

    async fn run_once(&self, l: &Launch, dry_run: bool) -> Result<Instance, ApiError> {
        use base64_of as encoded;
        let interface = sdk::InstanceNetworkInterfaceSpecification::builder()
            .device_index(0)
            .subnet_id(&l.subnet)
            .set_private_ip_address(l.private_ip.clone())
            .associate_public_ip_address(l.public_ip)
            .set_groups((!l.groups.is_empty()).then(|| l.groups.clone()))
            .delete_on_termination(true)
            .build();
        let metadata = sdk::InstanceMetadataOptionsRequest::builder()
            .http_tokens(sdk::HttpTokensState::Required)
            .http_endpoint(sdk::InstanceMetadataEndpointState::Enabled)
            .http_put_response_hop_limit(1)
            .instance_metadata_tags(sdk::InstanceMetadataTagsState::Disabled)
            .build();
        let spot = l.spot.then(|| {
            let options = sdk::SpotMarketOptions::builder().spot_instance_type(sdk::SpotInstanceType::OneTime).build();
            sdk::InstanceMarketOptionsRequest::builder().market_type(sdk::MarketType::Spot).spot_options(options).build()
        });
        let answer = self
            .timed(
                self.once
                    .run_instances()
                    .client_token(&l.token)
                    .min_count(1)
                    .max_count(1)
                    .image_id(&l.image)
                    .instance_type(sdk::InstanceType::from(l.instance_type.as_str()))
                    .set_key_name(l.key_name.clone())
                    .user_data(encoded(&l.user_data))
                    .network_interfaces(interface)
                    .metadata_options(metadata)
                    .set_block_device_mappings(Some(l.volumes.iter().map(mapping).collect()))
                    .set_instance_market_options(spot)
                    .set_instance_initiated_shutdown_behavior(l.ends.then_some(sdk::ShutdownBehavior::Terminate))
                    .tag_specifications(specification(sdk::ResourceType::Instance, &l.tags))
                    .tag_specifications(specification(sdk::ResourceType::Volume, &l.volume_tags))
                    .tag_specifications(specification(sdk::ResourceType::NetworkInterface, &l.tags))
                    .set_dry_run(dry_run.then_some(true))
                    .send(),
            )
            .await
            .map_err(|e| ApiError::from_sdk("RunInstances", e))?;
        let made = answer.instances.unwrap_or_default().into_iter().find_map(instance);
        made.ok_or_else(|| ApiError::empty("RunInstances", "instance"))
    }

    /// Starts a stopped instance.
    pub async fn start_instance(&self, id: &str) -> Result<(), ApiError> {
        let call = self.ec2.start_instances().instance_ids(id).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("StartInstances", e))
    }

    /// Stops an instance; its public address goes, its private one stays.
    pub async fn stop_instance(&self, id: &str) -> Result<(), ApiError> {
        let call = self.ec2.stop_instances().instance_ids(id).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("StopInstances", e))
    }

    /// Terminates instances.
    pub async fn terminate_instances(&self, ids: &[String]) -> Result<(), ApiError> {
        let call = self.ec2.terminate_instances().set_instance_ids(Some(ids.to_vec())).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("TerminateInstances", e))
    }

    /// Gives a stopped instance another type.
    pub async fn modify_type(&self, id: &str, instance_type: &str) -> Result<(), ApiError> {
        let value = sdk::AttributeValue::builder().value(instance_type).build();
        let call = self.ec2.modify_instance_attribute().instance_id(id).instance_type(value).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("ModifyInstanceAttribute", e))
    }

    /// Makes an instance, in whatever state, a member of just these security groups.
    pub async fn modify_groups(&self, id: &str, groups: &[String]) -> Result<(), ApiError> {
        let call = self.ec2.modify_instance_attribute().instance_id(id).set_groups(Some(groups.to_vec())).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("ModifyInstanceAttribute", e))
    }

    /// Lets an instance be terminated when it stops itself. That it is stopped from outside changes nothing.
    pub async fn terminate_when_it_stops(&self, id: &str) -> Result<(), ApiError> {
        let value = sdk::AttributeValue::builder().value("terminate").build();
        let call = self.ec2.modify_instance_attribute().instance_id(id).instance_initiated_shutdown_behavior(value).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("ModifyInstanceAttribute", e))
    }

    /// Says whether the volume of a device is deleted when its instance is terminated, whoever terminates it.
    pub async fn delete_on_termination(&self, id: &str, device: &str, delete: bool) -> Result<(), ApiError> {
        let ebs = sdk::EbsInstanceBlockDeviceSpecification::builder().delete_on_termination(delete).build();
        let mapping = sdk::InstanceBlockDeviceMappingSpecification::builder().device_name(device).ebs(ebs).build();
        let call = self.ec2.modify_instance_attribute().instance_id(id).block_device_mappings(mapping).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("ModifyInstanceAttribute", e))
    }

    /// Gives a stopped instance other user data.
    pub async fn modify_user_data(&self, id: &str, text: &str) -> Result<(), ApiError> {
        let value = sdk::BlobAttributeValue::builder().value(Blob::new(text.as_bytes())).build();
        let call = self.ec2.modify_instance_attribute().instance_id(id).user_data(value).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("ModifyInstanceAttribute", e))
    }

    /// An instance's user data, decoded.
    pub async fn user_data(&self, id: &str) -> Result<String, ApiError> {
        let call = self.ec2.describe_instance_attribute().instance_id(id).attribute(sdk::InstanceAttributeName::UserData).send();
        let answer = self.timed(call).await.map_err(|e| ApiError::from_sdk("DescribeInstanceAttribute", e))?;
        let text = answer.user_data.and_then(|v| v.value).unwrap_or_default();
        let bytes = aws_smithy_types::base64::decode(text).map_err(|_| ApiError::empty("DescribeInstanceAttribute", "base64"))?;
        String::from_utf8(bytes).map_err(|_| ApiError::empty("DescribeInstanceAttribute", "text"))
    }

    /// Waits until instances have a state, or one of them has ended.
    pub async fn wait_for(&self, ids: &[String], state: InstanceState, limit: Duration) -> Result<Vec<Instance>, ApiError> {
        let until = tokio::time::Instant::now() + limit;
        let mut pause = Duration::from_millis(250);
        loop {
            let seen = match self.instances_by_id(ids).await {
                Ok(list) => list,
                // What was made a moment ago may not be known everywhere yet; what was terminated long ago is not known any more. One
                // that is not known refuses the question for all: then each on its own.
                Err(e) if e.is_not_found() && state == InstanceState::Terminated => {
                    let mut known = Vec::new();
                    for id in ids.iter().filter(|_| ids.len() > 1) {
                        match self.instances_by_id(std::slice::from_ref(id)).await {
                            Ok(list) => known.extend(list),
                            Err(e) if e.is_not_found() => {}
                            Err(e) => return Err(e),
                        }
                    }
                    if known.iter().all(|i| i.state == state) {
                        return Ok(known);
                    }
                    known
                }
                Err(e) if e.is_not_found() => Vec::new(),
                Err(e) => return Err(e),
            };
            if seen.len() == ids.len() && seen.iter().all(|i| i.state == state) {
                return Ok(seen);
            }
            let ended = seen.iter().find(|i| matches!(i.state, InstanceState::Terminated | InstanceState::ShuttingDown));
            if let Some(gone) = ended.filter(|_| state != InstanceState::Terminated) {
                let message = format!("{} ended instead of becoming {state:?}: {}", gone.id, gone.reason);
                return Err(ApiError { action: "DescribeInstances", code: "InstanceEnded".into(), status: 200, message });
            }
            if tokio::time::Instant::now() > until {
                let list: Vec<String> = seen.iter().map(|i| format!("{} is {:?}", i.id, i.state)).collect();
                let message = format!("not {state:?} within {} s: {}", limit.as_secs(), list.join(", "));
                return Err(ApiError { action: "DescribeInstances", code: crate::error::TIMEOUT.into(), status: 200, message });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(Duration::from_secs(3));
        }
    }

    /// Attaches a volume.
    pub async fn attach_volume(&self, volume: &str, to: &str, device: &str) -> Result<(), ApiError> {
        let call = self.ec2.attach_volume().volume_id(volume).instance_id(to).device(device).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("AttachVolume", e))
    }

    /// Deletes a volume.
    pub async fn delete_volume(&self, id: &str) -> Result<(), ApiError> {
        let call = self.ec2.delete_volume().volume_id(id).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("DeleteVolume", e))
    }

    /// Sets tags on things; other tags stay.
    pub async fn set_tags(&self, ids: &[String], tags: &Tags) -> Result<(), ApiError> {
        let call = self.ec2.create_tags().set_resources(Some(ids.to_vec())).set_tags(Some(list(tags))).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("CreateTags", e))
    }
}

fn base64_of(text: &str) -> String {
    aws_smithy_types::base64::encode(text)
}
