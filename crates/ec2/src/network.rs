//! Security groups, key pairs, and a VPC of one's own. These calls have no client token: whoever makes them looks first, and looks
//! again after an ambiguous answer.

use aws_sdk_ec2::types as sdk;
use aws_smithy_types::Blob;

use crate::{ApiError, Client, Rule, RuleSource, Tags, instances::specification};

fn permissions(rules: &[Rule]) -> Vec<sdk::IpPermission> {
    rules
        .iter()
        .map(|r| {
            let p = sdk::IpPermission::builder().ip_protocol(&r.protocol);
            let p = if r.protocol == "-1" { p } else { p.from_port(r.from_port).to_port(r.to_port) };
            match &r.source {
                RuleSource::Cidr(c) if c.contains(':') => p.ipv6_ranges(sdk::Ipv6Range::builder().cidr_ipv6(c).build()),
                RuleSource::Cidr(c) => p.ip_ranges(sdk::IpRange::builder().cidr_ip(c).build()),
                RuleSource::Group(g) => p.user_id_group_pairs(sdk::UserIdGroupPair::builder().group_id(g).build()),
            }
            .build()
        })
        .collect()
}

impl Client {
    /// Makes a security group and returns its id. With `dry_run` nothing happens, and the answer is an error.
    pub async fn create_group(&self, name: &str, about: &str, vpc: &str, tags: &Tags, dry_run: bool) -> Result<String, ApiError> {
        let call = self.once.create_security_group().group_name(name).description(about).vpc_id(vpc);
        let call = call.tag_specifications(specification(sdk::ResourceType::SecurityGroup, tags)).set_dry_run(dry_run.then_some(true));
        let answer = self.timed(call.send()).await.map_err(|e| ApiError::from_sdk("CreateSecurityGroup", e))?;
        answer.group_id.ok_or_else(|| ApiError::empty("CreateSecurityGroup", "id"))
    }

    /// Lets traffic in. An existing rule is not an error.
    pub async fn allow(&self, group: &str, rules: &[Rule]) -> Result<(), ApiError> {
        let call = self.ec2.authorize_security_group_ingress().group_id(group).set_ip_permissions(Some(permissions(rules)));
        match self.timed(call.send()).await.map_err(|e| ApiError::from_sdk("AuthorizeSecurityGroupIngress", e)) {
            // One duplicate refuses the whole call: then each on its own.
            Err(e) if e.is_duplicate() && rules.len() > 1 => {
                for rule in rules {
                    Box::pin(self.allow(group, std::slice::from_ref(rule))).await?;
                }
                Ok(())
            }
            Err(e) if e.is_duplicate() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Lets traffic in no more.
    pub async fn disallow(&self, group: &str, rules: &[Rule]) -> Result<(), ApiError> {
        let call = self.ec2.revoke_security_group_ingress().group_id(group).set_ip_permissions(Some(permissions(rules)));
        match self.timed(call.send()).await.map_err(|e| ApiError::from_sdk("RevokeSecurityGroupIngress", e)) {
            // One that is gone refuses the whole call: then each on its own.
            Err(e) if e.code == "InvalidPermission.NotFound" && rules.len() > 1 => {
                for rule in rules {
                    Box::pin(self.disallow(group, std::slice::from_ref(rule))).await?;
                }
                Ok(())
            }
            Err(e) if e.code == "InvalidPermission.NotFound" => Ok(()),
            other => other.map(drop),
        }
    }

    /// Deletes a security group.
    pub async fn delete_group(&self, id: &str) -> Result<(), ApiError> {
        let call = self.ec2.delete_security_group().group_id(id).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("DeleteSecurityGroup", e))
    }

    /// Imports a public key (`ssh-ed25519 AAAA…`) and returns the pair's id. A name that is taken is an error, at once: of two who
    /// import under one name, one succeeds.
    pub async fn import_key(&self, name: &str, public: &str, tags: &Tags, dry_run: bool) -> Result<String, ApiError> {
        let call = self.once.import_key_pair().key_name(name).public_key_material(Blob::new(public.as_bytes()));
        let call = call.tag_specifications(specification(sdk::ResourceType::KeyPair, tags)).set_dry_run(dry_run.then_some(true));
        let answer = self.timed(call.send()).await.map_err(|e| ApiError::from_sdk("ImportKeyPair", e))?;
        answer.key_pair_id.ok_or_else(|| ApiError::empty("ImportKeyPair", "id"))
    }

    /// Deletes a key pair.
    pub async fn delete_key(&self, id: &str) -> Result<(), ApiError> {
        let call = self.ec2.delete_key_pair().key_pair_id(id).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("DeleteKeyPair", e))
    }

    /// Makes a VPC and returns its id.
    pub async fn create_vpc(&self, cidr: &str, tags: &Tags) -> Result<String, ApiError> {
        let call = self.once.create_vpc().cidr_block(cidr).tag_specifications(specification(sdk::ResourceType::Vpc, tags));
        let answer = self.timed(call.send()).await.map_err(|e| ApiError::from_sdk("CreateVpc", e))?;
        answer.vpc.and_then(|v| v.vpc_id).ok_or_else(|| ApiError::empty("CreateVpc", "id"))
    }

    /// Deletes a VPC.
    pub async fn delete_vpc(&self, id: &str) -> Result<(), ApiError> {
        let call = self.ec2.delete_vpc().vpc_id(id).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("DeleteVpc", e))
    }

    /// Makes a subnet in a zone and returns its id.
    pub async fn create_subnet(&self, vpc: &str, cidr: &str, zone: &str, tags: &Tags) -> Result<String, ApiError> {
        let call = self.once.create_subnet().vpc_id(vpc).cidr_block(cidr).availability_zone(zone);
        let call = call.tag_specifications(specification(sdk::ResourceType::Subnet, tags));
        let answer = self.timed(call.send()).await.map_err(|e| ApiError::from_sdk("CreateSubnet", e))?;
        answer.subnet.and_then(|s| s.subnet_id).ok_or_else(|| ApiError::empty("CreateSubnet", "id"))
    }

    /// Deletes a subnet.
    pub async fn delete_subnet(&self, id: &str) -> Result<(), ApiError> {
        let call = self.ec2.delete_subnet().subnet_id(id).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("DeleteSubnet", e))
    }

    /// Makes an internet gateway and returns its id.
    pub async fn create_gateway(&self, tags: &Tags) -> Result<String, ApiError> {
        let call = self.once.create_internet_gateway().tag_specifications(specification(sdk::ResourceType::InternetGateway, tags));
        let answer = self.timed(call.send()).await.map_err(|e| ApiError::from_sdk("CreateInternetGateway", e))?;
        answer.internet_gateway.and_then(|g| g.internet_gateway_id).ok_or_else(|| ApiError::empty("CreateInternetGateway", "id"))
    }

    /// Attaches a gateway to a VPC; an attached one is not an error.
    pub async fn attach_gateway(&self, gateway: &str, vpc: &str) -> Result<(), ApiError> {
        let call = self.ec2.attach_internet_gateway().internet_gateway_id(gateway).vpc_id(vpc).send();
        match self.timed(call).await.map_err(|e| ApiError::from_sdk("AttachInternetGateway", e)) {
            Err(e) if e.code == "Resource.AlreadyAssociated" => Ok(()),
            other => other.map(drop),
        }
    }

    /// Detaches a gateway.
    pub async fn detach_gateway(&self, gateway: &str, vpc: &str) -> Result<(), ApiError> {
        let call = self.ec2.detach_internet_gateway().internet_gateway_id(gateway).vpc_id(vpc).send();
        match self.timed(call).await.map_err(|e| ApiError::from_sdk("DetachInternetGateway", e)) {
            Err(e) if e.code == "Gateway.NotAttached" => Ok(()),
            other => other.map(drop),
        }
    }

    /// Deletes a gateway.
    pub async fn delete_gateway(&self, id: &str) -> Result<(), ApiError> {
        let call = self.ec2.delete_internet_gateway().internet_gateway_id(id).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("DeleteInternetGateway", e))
    }

    /// Makes a table of routes and returns its id.
    pub async fn create_route_table(&self, vpc: &str, tags: &Tags) -> Result<String, ApiError> {
        let call = self.once.create_route_table().vpc_id(vpc).tag_specifications(specification(sdk::ResourceType::RouteTable, tags));
        let answer = self.timed(call.send()).await.map_err(|e| ApiError::from_sdk("CreateRouteTable", e))?;
        answer.route_table.and_then(|t| t.route_table_id).ok_or_else(|| ApiError::empty("CreateRouteTable", "id"))
    }

    /// Gives a subnet a table of routes; an existing one is not an error.
    pub async fn associate_route_table(&self, table: &str, subnet: &str) -> Result<(), ApiError> {
        let call = self.ec2.associate_route_table().route_table_id(table).subnet_id(subnet).send();
        match self.timed(call).await.map_err(|e| ApiError::from_sdk("AssociateRouteTable", e)) {
            Err(e) if e.code == "Resource.AlreadyAssociated" => Ok(()),
            other => other.map(drop),
        }
    }

    /// Deletes a table of routes.
    pub async fn delete_route_table(&self, id: &str) -> Result<(), ApiError> {
        let call = self.ec2.delete_route_table().route_table_id(id).send();
        self.timed(call).await.map(drop).map_err(|e| ApiError::from_sdk("DeleteRouteTable", e))
    }

    /// Sends all that leaves a VPC through a gateway; an existing route is not an error.
    pub async fn route_out(&self, table: &str, gateway: &str) -> Result<(), ApiError> {
        let call = self.ec2.create_route().route_table_id(table).destination_cidr_block("0.0.0.0/0").gateway_id(gateway).send();
        match self.timed(call).await.map_err(|e| ApiError::from_sdk("CreateRoute", e)) {
            Err(e) if e.is_duplicate() => Ok(()),
            other => other.map(drop),
        }
    }
}
