//! Questions before anything is made: the caller's identity, what exists, quotas.

use aws_sdk_ec2::types as sdk;

use crate::{ApiError, Client, Offering, TypeInfo, describe::filters, filter};

/// Whom the credentials belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Identity {
    pub account: String,
    pub arn: String,
}

impl Client {
    /// Whose credentials these are.
    pub async fn identity(&self) -> Result<Identity, ApiError> {
        let answer = self.timed(self.sts.get_caller_identity().send()).await.map_err(|e| ApiError::from_sdk("GetCallerIdentity", e))?;
        Ok(Identity { account: answer.account.unwrap_or_default(), arn: answer.arn.unwrap_or_default() })
    }

    /// Zones of the region that can be used, by name.
    pub async fn zones(&self) -> Result<Vec<String>, ApiError> {
        let by = [filter("state", &["available"]), filter("zone-type", &["availability-zone"])];
        let call = self.ec2.describe_availability_zones().set_filters(filters(&by)).send();
        let answer = self.timed(call).await.map_err(|e| ApiError::from_sdk("DescribeAvailabilityZones", e))?;
        let mut zones: Vec<String> = answer.availability_zones.unwrap_or_default().into_iter().filter_map(|z| z.zone_name).collect();
        zones.sort();
        Ok(zones)
    }

    /// What instance types are. Types that do not exist are an error of EC2's.
    pub async fn instance_types(&self, names: &[String]) -> Result<Vec<TypeInfo>, ApiError> {
        let types = names.iter().map(|n| sdk::InstanceType::from(n.as_str())).collect();
        let call = self.ec2.describe_instance_types().set_instance_types(Some(types)).send();
        let answer = self.timed(call).await.map_err(|e| ApiError::from_sdk("DescribeInstanceTypes", e))?;
        let all = answer.instance_types.unwrap_or_default().into_iter();
        Ok(all
            .filter_map(|t| {
                let architectures = t.processor_info.and_then(|p| p.supported_architectures).unwrap_or_default();
                Some(TypeInfo {
                    name: t.instance_type?.as_str().to_owned(),
                    vcpus: t.v_cpu_info.and_then(|v| v.default_v_cpus).unwrap_or(0),
                    memory_mib: t.memory_info.and_then(|m| m.size_in_mib).unwrap_or(0),
                    architectures: architectures.iter().map(|a| a.as_str().to_owned()).collect(),
                })
            })
            .collect())
    }

    /// Which zones have which of some types.
    pub async fn offerings(&self, types: &[String]) -> Result<Vec<Offering>, ApiError> {
        let names: Vec<&str> = types.iter().map(String::as_str).collect();
        let by = [filter("instance-type", &names)];
        let call = self
            .ec2
            .describe_instance_type_offerings()
            .location_type(sdk::LocationType::AvailabilityZone)
            .set_filters(filters(&by))
            .into_paginator()
            .items()
            .send();
        let all: Result<Vec<sdk::InstanceTypeOffering>, _> = self.timed(call.collect()).await;
        let all = all.map_err(|e| ApiError::from_sdk("DescribeInstanceTypeOfferings", e))?;
        Ok(all
            .into_iter()
            .filter_map(|o| Some(Offering { instance_type: o.instance_type?.as_str().to_owned(), zone: o.location? }))
            .collect())
    }

    /// A public parameter, as the newest image of a distribution.
    pub async fn parameter(&self, name: &str) -> Result<String, ApiError> {
        let answer = self.timed(self.ssm.get_parameter().name(name).send()).await.map_err(|e| ApiError::from_sdk("GetParameter", e))?;
        answer.parameter.and_then(|p| p.value).ok_or_else(|| ApiError::empty("GetParameter", "value"))
    }

    /// A quota of EC2's, as `L-1216C47A` (vCPUs of standard on-demand instances).
    pub async fn quota(&self, code: &str) -> Result<f64, ApiError> {
        let call = self.quotas.get_service_quota().service_code("ec2").quota_code(code).send();
        let answer = self.timed(call).await.map_err(|e| ApiError::from_sdk("GetServiceQuota", e))?;
        answer.quota.and_then(|q| q.value).ok_or_else(|| ApiError::empty("GetServiceQuota", "value"))
    }
}
