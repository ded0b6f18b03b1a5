//! Which machine image an architecture gets, and what instance types are.

use septet_ec2::{Image, NewVolume, TypeInfo, filter};

use super::{Ec2, observe::DATA_DEVICE, policy::explain};
use crate::{
    engine::bundle::Architecture,
    error::{Error, Result},
    inventory::ImageChoice,
};

/// Whose images Debian's are.
const DEBIAN: &str = "136693071363";

/// EC2's name of an architecture.
fn ec2_name(a: Architecture) -> &'static str {
    match a {
        Architecture::X86_64 => "x86_64",
        Architecture::Aarch64 => "arm64",
    }
}

/// The public parameter that holds the newest image's id.
fn parameter(choice: &ImageChoice, a: Architecture) -> Option<String> {
    match choice {
        ImageChoice::AmazonLinux2023 => Some(format!("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}", ec2_name(a))),
        ImageChoice::Debian12 => {
            let debian = if a == Architecture::X86_64 { "amd64" } else { "arm64" };
            Some(format!("/aws/service/debian/release/12/latest/{debian}"))
        }
        ImageChoice::Id(_) => None,
    }
}

/// The volumes that an image brings beside its root volume. They are as the image has them, but go with the instance, whatever the
/// image says: they are not the cluster's data, and would cost on.
pub(super) fn other_volumes(image: &Image) -> impl Iterator<Item = NewVolume> {
    image.other_devices.iter().filter(|d| *d != DATA_DEVICE).map(|device| NewVolume {
        device: device.clone(),
        size: None,
        kind: String::new(),
        iops: None,
        throughput: None,
        encrypted: false,
        kms_key: None,
        delete_on_termination: true,
    })
}

impl Ec2 {
    /// The image for an architecture.
    pub(super) async fn image(&self, a: Architecture) -> Result<Image> {
        let mut known = self.images.lock().await;
        if let Some(image) = known.get(&a) {
            return Ok(image.clone());
        }
        let image = self.find_image(a).await?;
        known.insert(a, image.clone());
        Ok(image)
    }

    async fn find_image(&self, a: Architecture) -> Result<Image> {
        let client = self.client().await?;
        let choice = &self.settings.image;
        let id = match (choice, parameter(choice, a)) {
            (ImageChoice::Id(id), _) => Some(id.clone()),
            (_, Some(name)) => match client.parameter(&name).await {
                Ok(id) => Some(id),
                // Debian's parameters are not in every region; its images are found by their owner.
                Err(e) if *choice == ImageChoice::Debian12 && (e.is_not_found() || e.is_unauthorized()) => None,
                Err(e) => return Err(explain(&format!("cannot find the image by parameter {name}"), e)),
            },
            (_, None) => None,
        };
        let fail = |e| explain("cannot list images", e);
        let found = match &id {
            Some(id) => match client.image_by_id(id).await {
                Err(e) if e.is_not_found() => None,
                other => other.map_err(fail)?,
            },
            None => {
                let debian = if a == Architecture::X86_64 { "amd64" } else { "arm64" };
                let name = format!("debian-12-{debian}-*");
                let by = [filter("name", &[&name]), filter("state", &["available"])];
                let list = client.images(DEBIAN, &by).await.map_err(fail)?;
                list.into_iter().max_by(|x, y| (&x.created, &x.id).cmp(&(&y.created, &y.id)))
            }
        };
        let Some(image) = found else {
            let what = id.unwrap_or_else(|| "Debian 12".into());
            return Err(Error::failed(format!("there is no image {what} in region {}", client.region())).hint("check `image` and `region`"));
        };
        if image.architecture != ec2_name(a) {
            return Err(Error::failed(format!(
                "image {} is for {}, the instance types are for {}",
                image.id,
                image.architecture,
                ec2_name(a)
            ))
            .hint("choose instance types of the image's architecture, or another image"));
        }
        Ok(image)
    }

    /// What the wanted instance types are.
    pub(super) async fn type_infos(&self) -> Result<&Vec<TypeInfo>> {
        self.types
            .get_or_try_init(|| async {
                let mut names: Vec<String> = self.groups().iter().flat_map(|g| self.settings.types(*g).iter().cloned()).collect();
                names.sort();
                names.dedup();
                let found = self.client().await?.instance_types(&names).await.map_err(|e| {
                    let unknown = e.code == "InvalidInstanceType" || e.code == "InvalidParameterValue";
                    let error = explain("cannot ask about the instance types", e);
                    if unknown { error.hint("check `instance_type`: not every region has every type") } else { error }
                })?;
                match names.iter().find(|n| !found.iter().any(|t| t.name == **n)) {
                    Some(missing) => Err(Error::failed(format!("there is no instance type {missing} in this region"))
                        .hint("check `instance_type`: not every region has every type")),
                    None => Ok(found),
                }
            })
            .await
    }
}
