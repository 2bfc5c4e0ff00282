# The weather turns; friends find shelter.
cast: duo
lesson: [even a rainy day can be a good day|friends keep each other warm|after the rain comes the sun|a storm is not so bad with a friend]

<duo-here> [Suddenly|Then|But soon], dark clouds came. [It began to rain|Rain began to fall|Big drops fell from the sky].
<duo-here> [Suddenly|Then|After some time], a strong wind began to blow. It blew away {hero}'s {thing.bare}!
<duo> They wanted to have a picnic {place.in}. They packed {food.a} and {food2.a}. But when they got there, it began to rain.
<duo-here> [Suddenly|Then], the sky turned [gray|dark|black]. There was a loud boom. "[A storm is coming|It is a storm]!" said {friend}.

"[Run|Quick|We will get wet]!" [cried|shouted] {hero}. They ran as fast as they could.
"[What shall we do|Where can we go]?" asked {friend}. "We must find a dry place," said {hero}.
{Friend} was [cold|wet|scared]. "[I want to go home|I don't like this]," {friend.he} said. {Hero} took {friend.his} {friend.hand}. "[Come with me|Stay close to me|We will be fine]," {hero.he} said.

They looked for a dry place. {Hero} saw [a small cave|an old hut|a big tree|a barn|a big hollow log] not far away. "[Let us go there|Over there|Come]!" {hero.he} said. Inside, it was [dry and warm|dark but dry|cozy].
They hid [under a big leaf|under a bridge|in an old hut|in a barn|in a small cave]. {Wise.first} was there too. "[Come in|Sit down|There is room for everyone]," said {wise} <softly>.
They came to the house of {wise.first}. "[Come in, come in|You are all wet]!" said {wise}. {Wise.he} gave them [warm tea|a blanket|hot soup].

--
They [waited|sat close together] and listened to the rain. {Hero} [told a funny story|sang a song|made up a game]. {Friend} [laughed|was not afraid anymore|forgot the storm].
To pass the time, they [told stories|sang songs|played a guessing game|counted the drops]. [It was fun|The time went by fast|Soon they were laughing].
{Hero} had {food3.a}. They shared it [and waited|while the rain fell|]. "[This is nice|This is almost a picnic]," said {friend}.

[At last|After a while|Soon], the rain stopped. [The sun came out|The clouds went away|The birds began to sing].
Then it was quiet. {Hero} looked out. "[The storm is over|It stopped|Look, the sun]!" {hero.he} said.

There was a [big|bright|beautiful|wonderful] rainbow in the sky! "[How pretty|Look at the colors|It is beautiful]!" said {friend}.
There were puddles everywhere. {Hero} and {friend} jumped in. Splash! They [laughed and laughed|got wet again, but they did not care].
Everything was [fresh|clean|shiny] and smelled good. {Small.a} came out to drink from a [drop|puddle|leaf].

?
"[I like the rain now|That was fun|What a day]!" said {friend}. {Hero} [agreed|laughed|nodded].
<moral>
<moral>
They walked home [hand in hand|side by side|happily].
<bedtime>
